"""What `explain` found, as an object, a page of text, and HTML."""

from __future__ import annotations

import html
import textwrap
import unicodedata
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from pmap.errors import ArgumentError

if TYPE_CHECKING:
    from collections.abc import Callable

    import polars as pl

__all__ = ["Explanation"]

_WIDTH = 96
#: Colours of its own neither for light nor for dark notebooks.
_CODE = "overflow-x:auto;padding:.6em;border-left:3px solid rgba(127,127,127,.5);background:rgba(127,127,127,.1)"
_SAFETY = {
    "yes": "Parts give what the whole gives: yes, proven.",
    "no": "Parts give something else than the whole: do not map this function over parts.",
    "unknown": "Parts give what the whole gives: not proven.",
}
_WAYS = {
    "direct": "{name}(df), in one piece",
    "serial": "a plain loop over parts",
    "threads": "map_partitions on threads",
    "processes": "map_partitions on processes",
    "native": "{name}(df) with the native code",
}


@dataclass(eq=False)
class Explanation:
    """What is best for a function, and why.

    Attributes
    ----------
    verdict : {"native", "threads", "processes", "serial"}
        ``"native"``: let Polars do it, without pmap; ``"serial"``: one call, or a plain loop.
    partition_safe : {"yes", "no", "unknown"}
        Whether parts of the frame give what the whole gives. ``"yes"`` only if it is proven.
    confidence : {"high", "medium", "low"}
        In the verdict: ``"high"`` if it is proven, or was measured clearly.
    summary : str
        The advice in a sentence or two.
    evidence : list of str
        Facts, with figures.
    costs : polars.DataFrame
        Predicted ``seconds`` for all rows, of each ``way``.
    replacement : str or None
        Native code, verified on the sample and on extreme values.
    safety : str
        Why `partition_safe` is what it is.
    n_calls : int
        How often the function was called.
    seconds : float
        How long it took to find out.
    """

    name: str
    n_rows: int
    verdict: str
    partition_safe: str
    confidence: str
    summary: str
    safety: str
    evidence: list[str]
    costs: pl.DataFrame
    replacement: str | None
    n_calls: int
    seconds: float
    budget: float
    _native: Callable[[pl.DataFrame], Any] | None = field(default=None, repr=False)

    def native(self, frame: pl.DataFrame) -> Any:
        """Run the function with the native code in the place of its Python functions.

        Parameters
        ----------
        frame
            Any number of rows.

        Returns
        -------
        polars.DataFrame
            What the function gives, for the rows on which the code was verified at least.

        Raises
        ------
        ArgumentError
            If there is no replacement.
        """
        if self._native is None:
            raise ArgumentError(
                f"there is no verified native code for {self.name}: call {self.name}(df), "
                "or see .evidence for why"
            )
        return self._native(frame)

    def __str__(self) -> str:
        head = (
            f"{self.name} over {self.n_rows:,} rows "
            f"({self.n_calls} calls on samples, {self.seconds:.1f} s of {self.budget:g})"
        )
        blocks = [head, self._verdict(), self._replacement(), self._safety(), self._costs()]
        facts = "\n".join(_wrapped(f"  - {fact}") for fact in self.evidence)
        blocks.append(f"Facts\n{facts}" if facts else "")
        return "\n\n".join(block for block in blocks if block)

    __repr__ = __str__

    def _verdict(self) -> str:
        return _wrapped(f"{self.verdict.upper()}: {self.summary} (confidence: {self.confidence})")

    def _replacement(self) -> str:
        if self.replacement is None:
            return ""
        code = textwrap.indent(self.replacement, "    ")
        return f"Verified native code\n{code}\n{_wrapped('  ' + _caveat(self.replacement))}"

    def _safety(self) -> str:
        return _wrapped(_SAFETY[self.partition_safe]) + "\n" + _wrapped(f"  {self.safety}")

    def _costs(self) -> str:
        if self.costs.is_empty():
            return ""
        digits = self._digits()
        lines = [
            f"  {self._way(way):<44}{seconds:>12,.{digits}f}"
            for way, seconds in self.costs.iter_rows()
        ]
        return "\n".join((f"Seconds predicted for {self.n_rows:,} rows", *lines))

    def _digits(self) -> int:
        """Of the predicted seconds: more where they are short."""
        return 1 if max(self.costs["seconds"], default=0.0) >= 100 else 4  # noqa: PLR2004

    def _way(self, way: str) -> str:
        return _WAYS[way].format(name=self.name if len(self.name) < 20 else "function")  # noqa: PLR2004  fits the column

    def _repr_html_(self) -> str:
        """The page for notebooks; nothing of the user's is taken for markup."""
        digits = self._digits()
        costs = "".join(
            f"<tr><td style='text-align:left'>{html.escape(self._way(way))}</td>"
            f"<td style='text-align:right'>{seconds:,.{digits}f}</td></tr>"
            for way, seconds in self.costs.iter_rows()
        )
        facts = "".join(f"<li>{html.escape(fact)}</li>" for fact in self.evidence)
        code = (
            ""
            if self.replacement is None
            else f"<pre style='{_CODE}'>{html.escape(self.replacement)}</pre>"
            f"<p><small>{_caveat(self.replacement)}</small></p>"
        )
        table = (
            "<table><tr><th style='text-align:left'>way</th>"
            f"<th style='text-align:right'>seconds for {self.n_rows:,} rows</th></tr>{costs}</table>"
        )
        return (
            "<div style='max-width:60em;line-height:1.4'>"
            f"<p><b>{html.escape(self.name)}: {html.escape(self.verdict.upper())}</b> "
            f"(confidence: {html.escape(self.confidence)})<br>{html.escape(_sentence(self.summary))}</p>{code}"
            f"<p><b>{html.escape(_SAFETY[self.partition_safe])}</b><br>{html.escape(self.safety)}</p>"
            f"{table if costs else ''}<ul>{facts}</ul>"
            f"<p><small>{self.n_calls} calls on samples, {self.seconds:.1f} s of {self.budget:g}</small></p></div>"
        )


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:]


def _caveat(replacement: str) -> str:
    """What verifying can not promise."""
    text = "Where the Python function would raise, this gives a value or null."
    if "to_uppercase" in replacement or "to_lowercase" in replacement:
        version = unicodedata.unidata_version
        text += f" Letters that are newer than Unicode {version}, this Python's, may change case in Polars."
    return text


def _wrapped(text: str) -> str:
    indent = " " * (len(text) - len(text.lstrip(" -")))
    return textwrap.fill(text, _WIDTH, subsequent_indent=indent, break_long_words=False)
