"""scikit-learn on pmap's pools gives what it gives with n_jobs=1."""

from __future__ import annotations

import warnings

import joblib
import numpy as np
import pandas as pd
import polars as pl
import pytest

import pmap

pytest.importorskip("sklearn", reason="scikit-learn has no wheel for this Python yet")

from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.compose import ColumnTransformer
from sklearn.datasets import make_classification, make_regression
from sklearn.ensemble import (
    BaggingClassifier,
    ExtraTreesRegressor,
    RandomForestClassifier,
    StackingRegressor,
    VotingClassifier,
)
from sklearn.experimental import enable_halving_search_cv  # noqa: F401  which is what enables it
from sklearn.inspection import permutation_importance
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.model_selection import (
    GridSearchCV,
    HalvingGridSearchCV,
    RandomizedSearchCV,
    cross_val_predict,
    cross_validate,
    learning_curve,
)
from sklearn.multiclass import OneVsOneClassifier, OneVsRestClassifier
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import FeatureUnion, make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler
from sklearn.svm import SVC

pytestmark = pytest.mark.once

pmap.register_joblib_backend()

#: Large enough that X is shared, at 8 bytes a number.
X, Y = make_classification(12_000, 12, n_informative=6, n_classes=3, random_state=0, shuffle=False)
FEW = slice(None, None, 40)
A, B = make_regression(300, 8, noise=3.0, random_state=0)


def cross_validation(n_jobs):
    model = make_pipeline(StandardScaler(), LogisticRegression())
    found = cross_validate(model, X, Y, cv=4, n_jobs=n_jobs, return_train_score=True)
    return found["test_score"], found["train_score"]


def cross_prediction(n_jobs):
    return cross_val_predict(Ridge(), A, B, cv=4, n_jobs=n_jobs)


def grid_search(n_jobs):
    grid = {"C": [0.5, 2.0], "kernel": ["rbf", "linear"]}
    search = GridSearchCV(SVC(), grid, cv=3, n_jobs=n_jobs).fit(X[FEW], Y[FEW])
    return search.cv_results_["mean_test_score"], search.best_params_


def randomized_search(n_jobs):
    options = {"alpha": np.logspace(-2, 2, 20)}
    search = RandomizedSearchCV(Ridge(), options, n_iter=5, random_state=0, n_jobs=n_jobs)
    return search.fit(A, B).cv_results_["mean_test_score"]


def random_forest(n_jobs):
    forest = RandomForestClassifier(12, max_depth=5, random_state=0, n_jobs=n_jobs)
    forest.fit(X, Y)  # of its trees, since it sums up their votes in any order, with threads
    return [tree.predict_proba(X[FEW]) for tree in forest], forest.predict(X[FEW])


def extra_trees(n_jobs):
    return ExtraTreesRegressor(10, random_state=0, n_jobs=n_jobs).fit(A, B).predict(A)


def importance(n_jobs):
    model = LogisticRegression().fit(X, Y)
    return permutation_importance(
        model, X, Y, n_repeats=3, random_state=0, n_jobs=n_jobs
    ).importances


def one_vs_rest(n_jobs):
    return (
        OneVsRestClassifier(LogisticRegression(), n_jobs=n_jobs).fit(X, Y).decision_function(X[FEW])
    )


def one_vs_one(n_jobs):
    return OneVsOneClassifier(LogisticRegression(), n_jobs=n_jobs).fit(X, Y).predict(X[FEW])


def halving_search(n_jobs):
    options = {"alpha": np.logspace(-2, 2, 8)}
    search = HalvingGridSearchCV(Ridge(), options, min_resources=60, random_state=0, n_jobs=n_jobs)
    return search.fit(A, B).cv_results_["mean_test_score"]


def stacking(n_jobs):
    models = [("one", Ridge()), ("two", ExtraTreesRegressor(5, random_state=0))]
    return StackingRegressor(models, Ridge(), n_jobs=n_jobs).fit(A, B).predict(A)


class OfFrame(ClassifierMixin, BaseEstimator):
    """Wants the rows as a Polars frame, and says the class whose mean is nearest."""

    def fit(self, frame, classes):
        self.classes_ = np.unique(classes)
        self.means_ = frame.group_by(pl.lit(classes).alias("y")).mean().sort("y").drop("y")
        return self

    def predict(self, frame):
        rows, means = frame.to_numpy()[:, None], self.means_.to_numpy()[None]
        return self.classes_[((rows - means) ** 2).sum(axis=2).argmin(axis=1)]


def polars_frames(n_jobs):
    return cross_validate(OfFrame(), pl.DataFrame(X), Y, cv=4, n_jobs=n_jobs)["test_score"]


def polars_columns(n_jobs):
    kind = pl.Series("kind", np.array(["u", "v", "w"])[Y])
    return transformed(pl.DataFrame(X[:, :4], schema=list("abcd")).with_columns(kind), n_jobs)


def column_transformer(n_jobs):
    frame = pd.DataFrame(X[:, :4], columns=list("abcd")).assign(kind=np.array(["u", "v", "w"])[Y])
    return transformed(frame, n_jobs)


def transformed(frame, n_jobs):
    columns = ColumnTransformer(
        [("numbers", StandardScaler(), list("abcd")), ("kinds", OneHotEncoder(), ["kind"])],
        n_jobs=n_jobs,
    )
    return make_pipeline(columns, LogisticRegression()).fit(frame, Y).predict_proba(frame)


def feature_union(n_jobs):
    union = FeatureUnion([("one", StandardScaler()), ("two", StandardScaler())], n_jobs=n_jobs)
    return union.fit_transform(X)


def bagging(n_jobs):
    model = BaggingClassifier(KNeighborsClassifier(), 6, random_state=0, n_jobs=n_jobs)
    model.fit(X[FEW], Y[FEW])  # which sums up shares of the votes, as many as there are jobs
    return [one.predict_proba(X[FEW]) for one in model]


def voting(n_jobs):
    models = [("one", LogisticRegression()), ("two", KNeighborsClassifier())]
    return VotingClassifier(models, n_jobs=n_jobs).fit(X, Y).predict(X[FEW])


def learning(n_jobs):
    return learning_curve(Ridge(), A, B, cv=3, n_jobs=n_jobs)[2]


@pytest.mark.parametrize(
    "work",
    [
        cross_validation,
        cross_prediction,
        grid_search,
        randomized_search,
        random_forest,
        extra_trees,
        importance,
        one_vs_rest,
        one_vs_one,
        column_transformer,
        halving_search,
        stacking,
        polars_frames,
        polars_columns,
        feature_union,
        bagging,
        voting,
        learning,
    ],
)
def test_results_are_those_of_one_job(work):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # whatever scikit-learn says of the data
        alone = work(1)
        with joblib.parallel_config(backend="pmap"):
            np.testing.assert_equal(work(2), alone)


def test_it_really_runs_on_workers():
    seen = []

    class Watched(type(joblib.parallel.BACKENDS["pmap"]())):
        def submit(self, func, callback=None):
            seen.append(len(func))
            return super().submit(func, callback)

    with joblib.parallel_config(backend=Watched(), n_jobs=2):
        cross_prediction(None)
    assert sum(seen) == 4
