"""Methods of frames, by what they do to rows. What stands in no list is not known."""

from __future__ import annotations

__all__ = ["ELEMENTWISE_SERIES", "LEAVING", "OTHER_ROWS", "ROW_BY_ROW", "SCHEMA", "remedy", "words"]


def words(text: str) -> frozenset[str]:
    """A set of names, written as a line of text."""
    return frozenset(text.split())


#: Tell about columns, never about rows.
SCHEMA = words("columns dtypes schema width collect_schema get_column_index name dtype")

#: Each row of the result comes from one row, in order, if the expressions given do so too.
ROW_BY_ROW = words(
    "select select_seq with_columns with_columns_seq filter remove drop rename cast explode unnest lazy collect clone "
    "drop_nulls drop_nans fill_nan fill_null rechunk cache join __copy__"
)

#: Look at other rows, or at where a row stands.
OTHER_ROWS = words(
    "sort group_by group_by_dynamic rolling unique head tail limit slice first last gather_every reverse shift sample "
    "top_k bottom_k with_row_index with_row_count sum mean median max min std var quantile product count null_count "
    "n_unique approx_n_unique describe is_duplicated is_unique interpolate upsample transpose pivot unpivot melt "
    "partition_by merge_sorted join_asof corr hash_rows fold sum_horizontal value_counts rank cum_sum cum_max cum_min "
    "cum_prod cum_count diff pct_change rolling_mean rolling_sum rolling_max rolling_min arg_sort arg_max arg_min mode "
    "shuffle ewm_mean gather is_first_distinct is_last_distinct qcut hist rle rle_id any all to_dummies"
) - {"fold", "sum_horizontal", "hash_rows"}

#: Hand values to Python, or counts of rows: what becomes of them no trace tells.
LEAVING = words(
    "iter_rows iter_slices iter_columns rows rows_by_key row to_dicts to_dict to_list to_numpy to_pandas to_arrow to_torch "
    "to_jax item height shape len is_empty estimated_size __len__ __iter__ __array__ __getitem__ __contains__ map_rows "
    "map_batches map_elements __array_ufunc__ __arrow_c_stream__ equals to_init_repr"
)

_OPERATORS = "add radd sub rsub mul rmul truediv rtruediv floordiv rfloordiv mod rmod pow rpow and rand or ror xor"
#: Give a Series of the same length, value by value.
ELEMENTWISE_SERIES = words(
    "alias rename cast is_null is_not_null is_nan is_not_nan is_finite abs sqrt exp log floor ceil round sign clip "
    "to_frame str dt __eq__ __ne__ __lt__ __le__ __gt__ __ge__ __invert__ __neg__"
) | {f"__{name}__" for name in _OPERATORS.split()}

_GROUPS = words("group_by over partition_by group_by_dynamic value_counts")
_ORDER = words(
    "sort sort_by reverse rank head tail limit slice top_k bottom_k unique arg_sort first last gather_every"
)
_AGGREGATES = words(
    "sum mean median max min std var quantile product count len n_unique null_count describe any all implode corr"
)


def remedy(name: str, keys: list[str]) -> str:
    """What to do about a call that looks at other rows."""
    if name in _GROUPS and keys:
        shown = repr(keys[0]) if len(keys) == 1 else repr(keys)
        return (
            f"pass whole groups, pmap.map_partitions(df.partition_by({shown}), function), "
            "or call function(df) directly"
        )
    if name in _ORDER:
        return f"call function(df) directly, or do the {name} after the map, on its result"
    if name in _AGGREGATES:
        return (
            f"compute the {name} once on the whole frame and hand it to the function, "
            "or combine the parts' results in a second step"
        )
    return "call function(df) directly, on the whole frame"
