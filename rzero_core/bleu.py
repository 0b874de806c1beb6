"""Measures how alike questions are, for the Challenger's repetition penalty and for the curriculum.

Exact sentence BLEU between all pairs, and clusters of near repeats. Nothing is compared pair by
pair: min(a, b) = sum over l >= 1 of [a >= l][b >= l], so with one 0/1 column for each (n-gram, l-th
occurrence) all clipped counts of one order are a matrix product B B^T.
"""

from collections.abc import Iterator, Sequence
from typing import TypeAlias, assert_never

import numpy as np
from numpy.typing import NDArray
from sacrebleu.tokenizers.tokenizer_13a import Tokenizer13a
from scipy import sparse
from scipy.cluster import hierarchy

from rzero_core.run import Similarity

Floats: TypeAlias = NDArray[np.float64]
Integers: TypeAlias = NDArray[np.int64]

# One for all calls: it caches its results.
_TOKENIZER = Tokenizer13a()  # type: ignore[no-untyped-call]
_ORDERS = 4
_BLOCK_ROWS = 1024
# A column that more than this share of the texts have is cheaper in a dense product. The cap bounds
# memory on long texts: 4 orders x 2048 columns x 8000 texts x 4 bytes = 260 MB.
_DENSE_SHARE = 0.02
_DENSE_COLUMNS = 2048


def similarities(texts: Sequence[str], form: Similarity = Similarity.SACREBLEU) -> Floats:
    """BLEU of every text (row: hypothesis) against every text (column: its only reference).

    Returns (N, N) in [0, 1], equal to sacrebleu 2.6 `sentence_bleu` over 100 (13a tokens, effective
    order, exp smoothing), or to nltk's on white-space tokens with smoothing method1, as R-Zero's
    public code. Not symmetric: precision is over the hypothesis's length, as is the brevity
    penalty. A text without tokens scores 0, also against itself.
    """
    scores = np.empty((len(texts), len(texts)))
    for start, block in _score_blocks(texts, form, upper=False):
        scores[start : start + len(block)] = block
    return scores


def clusters(
    texts: Sequence[str], threshold: float = 0.5, form: Similarity = Similarity.SACREBLEU
) -> Integers:
    """Groups texts by average linkage on the distance 1 - BLEU(i, j), i < j, text i as hypothesis.

    Clusters merge while their mean distance is strictly below `threshold`, in [0, 1]: the partition
    of scikit-learn's `AgglomerativeClustering(metric="precomputed", linkage="average")`. The
    paper's repetition penalty takes 0.5 (section 3.2). A small one finds near duplicates: with 0.1,
    the first text of a cluster stands for those with a mean BLEU above 0.9. Returns (N,) ids 0, 1,
    ... in order of first appearance. Peak memory is about 8 N^2 bytes beside the n-grams: 1.3 GiB
    for 8000 texts of 400 words. Raises ValueError for a threshold out of range.
    """
    if not 0 <= threshold <= 1:
        raise ValueError(f"threshold is {threshold}; give a distance from 0 to 1")
    if len(texts) < 2:
        return np.zeros(len(texts), dtype=np.int64)
    distances = _condensed_distances(texts, form)
    tree = hierarchy.linkage(distances, method="average")
    # fcluster merges at distances <= its argument.
    raw = hierarchy.fcluster(tree, np.nextafter(threshold, -np.inf), criterion="distance")
    _, first, inverse = np.unique(raw, return_index=True, return_inverse=True)
    return np.argsort(np.argsort(first))[inverse].astype(np.int64)


def near_duplicates(
    texts: Sequence[str], threshold: float, form: Similarity = Similarity.SACREBLEU
) -> NDArray[np.bool_]:
    """Which texts repeat an earlier one: (N,), True where BLEU(i, j) >= `threshold`, i < j.

    Text i, the hypothesis, must itself be no repeat, so one of each group of repeats always stays.
    Holds a block of rows, never (N, N).
    """
    repeats = np.zeros(len(texts), dtype=bool)
    for start, block in _score_blocks(texts, form, upper=True):
        for row, scores in enumerate(block):
            if not repeats[start + row]:
                repeats[start + row + 1 :] |= scores[row + 1 :] >= threshold
    return repeats


def _condensed_distances(texts: Sequence[str], form: Similarity) -> Floats:
    """The upper triangle row after row, (N (N - 1) / 2,), as scipy's linkage takes it."""
    n = len(texts)
    distances = np.empty(n * (n - 1) // 2)
    filled = 0
    for _, block in _score_blocks(texts, form, upper=True):
        for row, scores in enumerate(block):
            tail = scores[row + 1 :]
            distances[filled : filled + len(tail)] = 1.0 - tail
            filled += len(tail)
    return distances


def _score_blocks(
    texts: Sequence[str], form: Similarity, *, upper: bool
) -> Iterator[tuple[int, Floats]]:
    """Yields (first row, scores) for blocks of hypotheses against all texts, or with `upper` only
    against those from the block's first row on."""
    tokens, lengths = _tokenize(texts, form)
    orders = [_Order(grams, owners, len(texts)) for grams, owners in _ngrams(tokens, lengths)]
    for start in range(0, len(texts), _BLOCK_ROWS):
        rows = slice(start, min(start + _BLOCK_ROWS, len(texts)))
        first = start if upper else 0
        counts = [order.clipped_counts(rows, first) for order in orders]
        yield start, _scores(counts, lengths[rows], lengths[first:], form)


def _tokenize(texts: Sequence[str], form: Similarity) -> tuple[Integers, Integers]:
    """Token ids of all texts end to end, and (N,) lengths in tokens."""
    match form:
        case Similarity.SACREBLEU:
            split = {text: _TOKENIZER(text.rstrip()).split() for text in texts}
        case Similarity.NLTK_METHOD1:
            split = {text: text.split() for text in texts}
        case _:
            assert_never(form)
    vocabulary: dict[str, int] = {}
    ids = [vocabulary.setdefault(t, len(vocabulary)) for text in texts for t in split[text]]
    lengths = [len(split[text]) for text in texts]
    return np.array(ids, dtype=np.int64), np.array(lengths, dtype=np.int64)


def _ngrams(tokens: Integers, lengths: Integers) -> Iterator[tuple[Integers, Integers]]:
    """Yields for n = 1..4 the id of each n-gram of all texts, and the text it is in."""
    owners = np.repeat(np.arange(len(lengths)), lengths)
    left = np.repeat(np.cumsum(lengths), lengths) - np.arange(len(tokens))
    grams, vocabulary = tokens, int(tokens.max(initial=0)) + 1
    yield grams, owners
    for n in range(2, _ORDERS + 1):
        # `grams` are the (n - 1)-grams, at the positions with n - 1 tokens or more left.
        longer = left[left >= n - 1] >= n
        position = np.flatnonzero(left >= n)
        pairs = grams[longer] * vocabulary + tokens[position + n - 1]
        grams = np.unique(pairs, return_inverse=True)[1].astype(np.int64)
        yield grams, owners[position]


class _Order:
    """The 0/1 columns B of one n-gram order, the frequent ones dense."""

    def __init__(self, grams: Integers, owners: Integers, n_texts: int) -> None:
        rows, columns = _unary_columns(grams, owners)
        frequency = np.bincount(columns)
        self.totals = np.bincount(owners, minlength=n_texts)
        frequent = np.argsort(-frequency, kind="stable")[:_DENSE_COLUMNS]
        frequent = frequent[frequency[frequent] > max(1.0, _DENSE_SHARE * n_texts)]
        is_dense = np.zeros(len(frequency), dtype=bool)
        is_dense[frequent] = True
        # A column that one text alone has counts only on the diagonal, which `totals` gives.
        is_sparse = (frequency > 1) & ~is_dense
        # float32 holds whole numbers below 2^24 exactly, and no text has that many n-grams.
        self.dense = _select(rows, columns, is_dense, n_texts).toarray()
        self.rare = _select(rows, columns, is_sparse, n_texts)

    def clipped_counts(self, rows: slice, first: int) -> NDArray[np.float32]:
        """Shared n-grams of the texts `rows` with the texts from `first` on, (rows, N - first)."""
        counts: NDArray[np.float32] = self.dense[rows] @ self.dense[first:].T
        counts += (self.rare[rows] @ self.rare[first:].T).toarray()
        within = np.arange(rows.start, rows.stop)
        counts[within - rows.start, within - first] = self.totals[rows]
        return counts


def _unary_columns(grams: Integers, owners: Integers) -> tuple[Integers, Integers]:
    """(text, column) of every n-gram, one column for each (n-gram, l-th occurrence in its text)."""
    order = np.lexsort((grams, owners))
    grams, owners = grams[order], owners[order]
    place = np.arange(len(grams))
    fresh = np.ones(len(grams), dtype=bool)
    fresh[1:] = (grams[1:] != grams[:-1]) | (owners[1:] != owners[:-1])
    occurrence = place - np.maximum.accumulate(np.where(fresh, place, 0))
    keys = grams * (int(occurrence.max(initial=0)) + 1) + occurrence
    return owners, np.unique(keys, return_inverse=True)[1].astype(np.int64)


def _select(
    rows: Integers, columns: Integers, wanted: NDArray[np.bool_], n_texts: int
) -> sparse.csr_array:
    """The wanted columns, renumbered, as an (N, columns) 0/1 matrix."""
    kept = wanted[columns]
    numbers = np.cumsum(wanted) - 1
    ones = np.ones(int(kept.sum()), dtype=np.float32)
    shape = (n_texts, int(wanted.sum()))
    return sparse.csr_array((ones, (rows[kept], numbers[columns[kept]])), shape=shape)


def _scores(
    counts: Sequence[NDArray[np.float32]],
    hypothesis: Integers,
    reference: Integers,
    form: Similarity,
) -> Floats:
    """BLEU from the clipped counts of each order and the lengths in tokens (rows, columns).

    BP * (product of P_n)^(1/E). sacrebleu: E = min(4, |h|), and the k-th order without a match
    counts 1/2^k. nltk method1: E = 4, an order without a match counts 0.1, and t_n is at least 1.
    """
    totals = np.maximum(hypothesis[:, None] - np.arange(_ORDERS), 0)
    product = np.ones(counts[0].shape)
    smoothed = np.ones(counts[0].shape) if form == Similarity.SACREBLEU else np.float64(0.1)
    for n, count in enumerate(counts):
        missing = count == 0
        if form == Similarity.SACREBLEU:
            # Orders the hypothesis is too short for are left out.
            missing &= totals[:, n, None] > 0
            smoothed = np.where(missing, smoothed / 2, smoothed)
            count = np.where(totals[:, n, None] > 0, count, 1)
        product *= np.where(missing, smoothed, count)
    product /= np.maximum(totals, 1).prod(axis=1, dtype=np.float64)[:, None]
    _take_roots(
        product, hypothesis if form == Similarity.SACREBLEU else np.full_like(hypothesis, _ORDERS)
    )
    product *= np.exp(1 - np.maximum(reference / np.maximum(hypothesis, 1)[:, None], 1))
    product[counts[0] == 0] = 0
    # Rounding could lift a score over 1, and fcluster refuses negative distances.
    return np.minimum(product, 1.0, out=product)


def _take_roots(product: Floats, lengths: Integers) -> None:
    """Takes, in place, each row's root of the degree min(4, length)."""
    for degree in (2, 3):
        short = lengths == degree
        product[short] **= 1 / degree
    long = lengths >= _ORDERS
    product[long] = np.sqrt(np.sqrt(product[long]))
