"""Intervals for numbers measured on text, by drawing whole documents again.

Tokens of one document resemble each other, so an interval that takes them for independent draws is too narrow. What a
statistic needs is summed within each document once; a draw then weighs the documents and never looks at a token again.

Source: Efron 1979, "Bootstrap methods: another look at the jackknife"; the paper gives no intervals (departure D33).
"""

from collections.abc import Callable, Iterator

import numpy as np
from jaxtyping import Float, Float64, Int, Int64, Shaped

from sae_lib.errors import BookError

_CHUNK_ELEMENTS = 2**22
"""Largest matrix of counts that is held at once, in elements (32 MiB)."""


def sums(document: Int[np.ndarray, "*tokens"], values: Shaped[np.ndarray, "..."]) -> Float64[np.ndarray, "document column"]:
    """Values of tokens, summed within each document.

        sums[d, c] = sum over tokens t of document d of values[t, c]

    Args:
        document: which document each token belongs to; any whole numbers, they are counted anew from 0.
        values: numbers or truth values, one for each token, or one for each token and column (the last axis).

    Returns:
        One row a document that occurs, in the order of their numbers, and one column for each of `values`.

    Raises:
        BookError: the shapes differ, or there are no tokens.
    """
    if values.shape[: document.ndim] != document.shape or values.ndim > document.ndim + 1:
        raise BookError(f"values of shape {values.shape} do not go with documents of shape {document.shape}; give one row a token")
    if document.size == 0:
        raise BookError("there are no tokens to sum over; give at least one")
    number = np.unique(document, return_inverse=True)[1].reshape(-1)
    columns = values.reshape(document.size, -1).T
    return np.stack([np.bincount(number, weights=column) for column in columns], axis=1)


def draws(n_documents: int, n: int = 1_000, seed: int = 0) -> Iterator[Int64[np.ndarray, "draw document"]]:
    """How often each document is taken when as many documents are drawn with replacement; some draws at a time.

    Args:
        n_documents: documents there are, at least 1.
        n: draws, at least 1.
        seed: the same seed gives the same draws.

    Returns:
        Blocks of counts, `n` rows in all; each row sums to `n_documents`.

    Raises:
        BookError: a number is below 1.
    """
    if n_documents < 1 or n < 1:
        raise BookError(f"{n} draws of {n_documents} documents cannot be made; both must be at least 1")
    rng = np.random.default_rng(seed)
    share = np.full(n_documents, 1 / n_documents)
    rows = max(1, _CHUNK_ELEMENTS // n_documents)
    return (rng.multinomial(n_documents, share, size=min(rows, n - start)) for start in range(0, n, rows))


def interval(
    statistic: Callable[[Float64[np.ndarray, "draw column"]], Float[np.ndarray, " draw"]],
    sums: Float[np.ndarray, "document column"],
    n: int = 1_000,
    level: float = 0.95,
    seed: int = 0,
    value: float | None = None,
) -> tuple[float, float]:
    """The percentile interval of a statistic over documents drawn anew.

        quantiles (1 - level) / 2 and (1 + level) / 2 of statistic(counts @ sums) over the draws

    A draw holds fewer different documents than the text, about 63% of them. Where that by itself moves the statistic one
    way, as with what hangs on things that few documents hold, the interval need not hold the value that was measured, and
    `value` moves the draws back, so that their median lies on it. What is left is how far the value spreads.

    Args:
        statistic: from summed columns, one row a draw, to one value a draw.
        sums: of `sums`, with all that the statistic needs.
        n: draws.
        level: share of the draws inside, between 0 and 1.
        seed: of the draws.
        value: the statistic of the whole text, to centre the draws on; None leaves them where they are.

    Returns:
        Lower and upper end in the statistic's unit. Draws in which it is not finite (a share of nothing) are left out;
        both ends are nan where none is left, and where there is a single document, which says nothing about others.

    Raises:
        BookError: `level` is not between 0 and 1, or there are no documents.
    """
    if not 0 < level < 1:
        raise BookError(f"an interval at level {level} cannot be drawn; the level lies between 0 and 1, such as 0.95")
    with np.errstate(divide="ignore", invalid="ignore"):
        values = np.concatenate([statistic(counts @ sums) for counts in draws(len(sums), n, seed)])
    values = values[np.isfinite(values)]
    if len(sums) == 1 or not len(values):
        return float("nan"), float("nan")
    if value is not None:
        values = value + (values - np.median(values))
    low, high = np.quantile(values, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def ratio(
    numerator: Shaped[np.ndarray, "*tokens"],
    denominator: Shaped[np.ndarray, "..."],
    document: Int[np.ndarray, "*tokens"],
    n: int = 1_000,
    level: float = 0.95,
    seed: int = 0,
) -> tuple[float, float]:
    """The interval of a share or a mean: one sum over tokens divided by another.

    Args:
        numerator: numbers or truth values, one a token.
        denominator: what they are divided by; ones for a mean over all tokens.
        document: which document each token belongs to.
        n: draws.
        level: share of the draws inside.
        seed: of the draws.

    Returns:
        Lower and upper end, as of `interval`.

    Raises:
        BookError: the shapes differ.
    """
    if numerator.shape != denominator.shape:
        raise BookError(f"{numerator.shape} values cannot be divided by {denominator.shape}; give one of each a token")
    return interval(lambda totals: totals[:, 0] / totals[:, 1], sums(document, np.stack([numerator, denominator], axis=-1)), n, level, seed)


def moments(
    x: Shaped[np.ndarray, "*tokens"], y: Shaped[np.ndarray, "..."], document: Int[np.ndarray, "*tokens"]
) -> Float64[np.ndarray, "document 6"]:
    """What `pearson` needs of two values of each token: sums of 1, x, y, x², y² and xy within each document.

    Args:
        x: numbers or truth values, one a token.
        y: the same.
        document: which document each token belongs to.

    Raises:
        BookError: the shapes differ.
    """
    x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)
    if x.shape != y.shape:
        raise BookError(f"{x.shape} values cannot be correlated with {y.shape}; give one of each a token")
    return sums(document, np.stack([np.ones_like(x), x, y, x * x, y * y, x * y], axis=-1))


def pearson(totals: Float64[np.ndarray, "draw 6"]) -> Float64[np.ndarray, " draw"]:
    """Pearson correlation from summed `moments`, for `interval`.

        (n Σxy - Σx Σy) / sqrt((n Σx² - (Σx)²) (n Σy² - (Σy)²))

    Args:
        totals: `moments` summed over documents, one row a draw.

    Returns:
        Values in [-1, 1]; nan where x or y does not vary.
    """
    n, x, y, xx, yy, xy = totals.T
    # Rounding may leave a variance of nothing a little below zero.
    variances = np.maximum(n * xx - x * x, 0) * np.maximum(n * yy - y * y, 0)
    return (n * xy - x * y) / np.sqrt(variances)
