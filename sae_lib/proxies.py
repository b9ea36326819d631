"""What a token is, judged without the model: log-likelihood ratios for scripts, base64 and DNA, and rules for the rest.

    ratio = max over runs s that end at the token of  log P(s | class) / P(s)

P(s) is the product of the tokens' shares of the corpus. For base64 and DNA, P(s | class) is a product over
characters: 1/64 or 1/4 for each that belongs, 1e-10 for each that does not. For a script, Bayes turns the
ratio into P(script | s) / P(script), where P(script | s) is 1 if all characters of s lie in the script's
blocks, 1e-10 if any does not, and for a token that holds only part of a character the share of that
token's occurrences that the script accounts for.

What is neither a script nor an alphabet is found by a regular expression, `PATTERNS`: cheap, and stated in words.

Source: Bricken et al. 2023, "Detailed Investigations of Individual Features" and the appendix "Feature Proxies"; the
patterns are ours.
"""

import re
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int
from torch import Tensor

from sae_lib.errors import BookError

OTHER = 1e-10
"""Probability of a character that does not belong to the class."""

SCRIPTS = {
    "arabic": ((0x0600, 0x06FF), (0x0750, 0x077F), (0x0870, 0x08FF), (0xFB50, 0xFDFF), (0xFE70, 0xFEFF)),
    "hebrew": ((0x0590, 0x05FF), (0xFB1D, 0xFB4F)),
    "korean": ((0x1100, 0x11FF), (0x3130, 0x318F), (0xA960, 0xA97F), (0xAC00, 0xD7AF), (0xD7B0, 0xD7FF), (0xFFA0, 0xFFDC)),
}
"""First and last code point of each script's Unicode blocks; Korean is Hangul, syllables and letters."""

ALPHABETS = {
    "base64": b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/",
    "dna": b"ACGT",
}
"""The characters of each format; each has the same probability."""

PROXIES = (*SCRIPTS, *ALPHABETS)
"""Every class that `proxy` knows."""


class Rule(NamedTuple):
    """What it takes for a token to be in a class, without any probability."""

    takes: str
    """The rule in words."""
    pattern: str
    """A regular expression, read as `matches` reads it."""
    on_line: str = ""
    """If given, a line counts only if this occurs in it too."""


_LAWYERS = (
    r"\b(?:here(?:in(?:after)?|by|to|under|of)|thereof|thereto|pursuant to|notwithstanding|plaintiffs?|defendants?|appell(?:ant|ee)s?"
    r"|respondents?|petitioners?|claimants?|jurisdiction|statut(?:e|ory)|liabilit(?:y|ies)|certiorari|injunction|affidavit"
    r"|breach of|U\.S\.C\.|[Tt]h(?:e|is) (?:Agreement|Court|Lease|Licen[cs]e|Part(?:y|ies))|indemnif\w+|[Ii]ndemnification"
    r"|[Gg]overning [Ll]aw|\w+ v\.? [A-Z]\w+)\b"
)
_NUTRIENT = (
    r"(?:protein|prot|fat|saturates|carb(?:ohydrate)?s?|fib(?:re|er)|sugars?|sodium|salt|cholesterol"
    r"|potassium|calcium|iron|vitamin [a-k]\d*)"
)
_TEX_COMMAND = (
    r"\\(?:begin|end|(?:sub)*section|label|(?:eq)?ref|cite\w*|frac|sqrt|sum|int|prod|lim|alpha|beta|gamma|delta|(?:var)?epsilon|theta"
    r"|lambda|mu|sigma|(?:var)?phi|omega|infty|partial|math(?:bb|cal|rm|bf|frak)|text(?:bf|it|rm|tt)|left|right|cdot|[lc]?dots|leq?|geq?"
    r"|times|item|usepackage|documentclass|newcommand|newtheorem|emph|maketitle|title|author|qquad|quad)(?![A-Za-z])"
)
_FORMULA = r"\$[^$\n]{0,80}[\\^_][^$\n]{0,80}\$"
_TAGS = (
    r"(?:/|(?:p|li|b|i|u|a|em|tt|td|tr|th|h\d|br|hr|ul|ol|dl|dt|dd|div|pre|sup|sub|span"
    r"|code|html|head|body|strong|table|title|center|font)\b)"
)

PATTERNS = {
    "URL and HTTP": Rule(
        "an address that begins with its scheme or with www, and the first line of a request or of its answer",
        r"\b(?:https?|ftp)://[^\s<>\"'`)\]}|]+|\bwww\.[A-Za-z0-9-]+\.[^\s<>\"'`)\]}|]+"
        r"|\b(?:GET|HEAD|POST|PUT|PATCH|DELETE|OPTIONS|PURGE) \S+ HTTP/\d(?:\.\d)?|\bHTTP/\d(?:\.\d)? \d{3}\b[A-Za-z ]{0,40}",
    ),
    "code comment": Rule(
        "from a hash sign to the end of the line where it is indented, stands two spaces behind code, or above a line that looks "
        "like code; from two slashes at a line's start or behind ; { } or a comma; and between /* and */",
        r"^[ \t]+(#[ !:][^\n]*)|[^\s#][ \t]{2,}(# [^\n]*)|^(#[ !][^\n]*)(?=\n(?:#|import |from |def |class |@|[A-Za-z_][\w.]* ?[=(]))"
        r"|(?:^[ \t]*|[;{},][ \t]+)(//[^\n]*)|(/\*(?s:.){0,2000}?\*/)",
    ),
    "def": Rule(
        "the line or lines that open a function in Python, from def to the colon",
        r"^[ \t]*((?:async )?def \w+ ?\([^()]*(?:\([^()]*\)[^()]*)*\)[^:\n]*:)|^[ \t]*((?:async )?def \w+ ?\([^\n]*)",
    ),
    "legal": Rule(
        "a line with two of the words and phrases that only lawyers use, such as pursuant to or plaintiff",
        r"[^\n]+",
        rf"{_LAWYERS}[^\n]*?{_LAWYERS}",
    ),
    "nutrition": Rule(
        "a line that gives a nutrient with its amount, an energy in kcal or kJ, nutrition facts, or ingredients",
        r"[^\n]+",
        rf"(?i:\d ?(?:kcal|kj)\b|\b{_NUTRIENT}[^\n\w]{{1,6}}\d+(?:[.,]\d+)? ?(?:m?g|mcg|%)"
        rf"|\d ?m?g (?:of )?(?:total |saturated )?{_NUTRIENT}\b"
        r"|\bnutrition(?:al)? (?:facts|information)|^ingredients:|\bserving size)",
    ),
    "the in mathematics": Rule(
        "the word the, on a line that holds a formula or a word of mathematics such as theorem or matrix",
        r"\b[Tt]he\b",
        rf"{_FORMULA}|\b(?i:theorem|lemma|corollary|eigenvalues?|eigenvectors?|polynomials?|matri(?:x|ces)|derivatives?|integrals?|integers?"
        r"|converges?|convergence|manifolds?|topolog\w+|isomorphi\w+|infinitesimal|differentiable|equations?|hypotenuse|logarithms?)\b",
    ),
    "LaTeX": Rule(
        "a line with a command of LaTeX, or with a formula between dollar signs",
        r"[^\n]+",
        rf"{_TEX_COMMAND}|{_FORMULA}",
    ),
    "chat": Rule(
        "a line that begins with a nick in angle brackets, after a time of day or not, or that tells who comes and goes",
        rf"^(?:\[?\d\d:\d\d(?::\d\d)?\]? ?)?<(?!{_TAGS})[@+%~&]?[\w\[\]\\`^{{}}|-]{{1,20}}> [^\n]*"
        r"|^\*\*\* [^\n]*\b(?:joined|left|quit|parted|kicked|topic|talking|known as|mode)\b[^\n]*",
    ),
    "snake capitals": Rule(
        "an identifier of capital letters and digits, joined by at least one underscore",
        r"(?<!\w)[A-Z][A-Z0-9]*(?:_[A-Z0-9]+)+(?!\w)",
    ),
    "hexadecimal": Rule(
        "eight or more digits in one case, standing alone, with a numeral and a letter among them; a literal behind 0x or, of six digits, "
        "behind a hash sign; a line of a dump",
        r"^[0-9A-Fa-f]{6,8}:?[ \t]+(?:[0-9A-Fa-f]{2,4}[ \t]+){4,}[^\n]*|\b0[xX][0-9A-Fa-f]{2,}\b|(?<![\w#])#[0-9A-Fa-f]{6}\b"
        r"|(?<![A-Za-z0-9+/])(?=[A-Fa-f]*\d)(?=\d*[A-Fa-f])(?:[0-9a-f]{8,}|[0-9A-F]{8,})(?![A-Za-z0-9+/])",
    ),
    "base64 run": Rule(
        "32 or more characters of the alphabet in a row, among them an upper-case letter, a lower-case letter and a numeral",
        r"(?<![A-Za-z0-9+/])(?=[A-Za-z+/]*\d)(?=[A-Z\d+/]*[a-z])(?=[a-z\d+/]*[A-Z])[A-Za-z0-9+/]{32,}",
    ),
}
"""Cheap proxies by rule; they miss what is written otherwise, and each says what it takes."""

_NEVER_IN_UTF8 = b"\xff"
"""Stands for a special token in the byte stream: it belongs to no class, and no character crosses it."""

_OUT, _UNKNOWN, _IN = 0, 1, 2
"""Whether the characters that a token touches lie in a script; unknown where the context cuts a character off."""


class TokenTable:
    """The bytes of every token id of a byte-level tokenizer.

    Args:
        tokenizer: a `tokenizers.Tokenizer` with the byte-level alphabet.

    Raises:
        BookError: a token is written outside that alphabet, so its bytes are not known.
    """

    bytes_of: list[bytes]
    """The bytes of each id; empty for special tokens."""
    special: Bool[np.ndarray, " d_vocab"]
    """Which ids are special tokens such as <|endoftext|>."""
    broken: Bool[np.ndarray, " d_vocab"]
    """Which ids hold a part of a character that other tokens complete."""

    def __init__(self, tokenizer: Any) -> None:
        byte_of = {letter: byte for byte, letter in enumerate(_byte_alphabet())}
        added = tokenizer.get_added_tokens_decoder()
        self._names = [tokenizer.id_to_token(token) for token in range(tokenizer.get_vocab_size(with_added_tokens=True))]
        self.bytes_of = []
        for token, name in enumerate(self._names):
            if token in added or name is None:
                self.bytes_of.append(b"")
            elif all(letter in byte_of for letter in name):
                self.bytes_of.append(bytes(byte_of[letter] for letter in name))
            else:
                raise BookError(f"token {token} ({name!r}) is not written in the byte-level alphabet; use a byte-level BPE tokenizer")
        self.special = np.array([not content for content in self.bytes_of])
        self.broken = np.array(["\ufffd" in content.decode("utf-8", errors="replace") for content in self.bytes_of])
        stream = [content or _NEVER_IN_UTF8 for content in self.bytes_of]
        self._length = np.array([len(content) for content in stream], dtype=np.int64)
        self._offset = np.cumsum(self._length) - self._length
        self._flat = np.frombuffer(b"".join(stream), dtype=np.uint8)

    def __len__(self) -> int:
        return len(self.bytes_of)

    def text(self, token: int) -> str:
        """A token as a reader should see it; bytes that are no whole character appear as \\xd8.

        An id that the tokenizer never gives out (a model may have spare ones) reads as `<unused 8191>`.
        """
        if not 0 <= token < len(self):
            return f"<unused {token}>"
        if self.special[token]:
            return self._names[token] or f"<unused {token}>"
        return self.bytes_of[token].decode("utf-8", errors="backslashreplace")


def proxy(
    name: str,
    tokens: Int[np.ndarray, "context pos"] | Int[Tensor, "context pos"],
    table: TokenTable,
    unigram_counts: Int[np.ndarray, " d_vocab"] | Int[Tensor, " d_vocab"],
) -> Float[np.ndarray, "context pos"]:
    """Log-likelihood ratio of one class at every token.

    Args:
        name: one of `PROXIES`.
        tokens: token ids; contexts are independent of each other.
        table: the bytes of the tokens.
        unigram_counts: occurrences of each token id in the corpus; scripts do not need it, but also take it.

    Returns:
        Natural-log ratios; above 0 counts as in class (`in_class`).

    Raises:
        BookError: no proxy has that name, or the tokens or counts do not match the table.

    Source: Bricken et al. 2023, appendix "Feature Proxies".
    Differs: in a script a token's leading space is not counted against it (departure D12).
    """
    _check_name(name)
    if name in SCRIPTS:
        return script_proxy(name, tokens, table, ignore_space=True)
    return {"base64": base64_proxy, "dna": dna_proxy}[name](tokens, table, unigram_counts)


def in_class(name: str, ratio: Float[np.ndarray, "..."]) -> Bool[np.ndarray, "..."]:
    """Which tokens a proxy counts as members of the class: those with a ratio above 0.

    Args:
        name: one of `PROXIES`.
        ratio: what `proxy` returned for that name.

    Raises:
        BookError: no proxy has that name.

    Source: Bricken et al. 2023 (the Arabic proxy is thresholded at 0, the DNA proxy used as a sign).
    """
    _check_name(name)
    return ratio > 0


def cheap_proxy(
    name: str, tokens: Int[np.ndarray, "context pos"] | Int[Tensor, "context pos"], table: TokenTable
) -> Bool[np.ndarray, "context pos"]:
    """Which tokens belong to a class that a rule decides.

    Args:
        name: a key of `PATTERNS`.
        tokens: token ids; contexts are independent of each other.
        table: the bytes of the tokens.

    Raises:
        BookError: no rule has that name, or the tokens do not match the table.

    Source: ours; Bricken et al. 2023 name the classes and judge them by eye.
    """
    if name not in PATTERNS:
        raise BookError(f"no rule is named {name!r}; choose one of {', '.join(PATTERNS)}")
    rule = PATTERNS[name]
    found = matches(rule.pattern, tokens, table)
    return found & matches(rule.on_line, tokens, table, whole_line=True) if rule.on_line else found


def matches(
    pattern: str,
    tokens: Int[np.ndarray, "context pos"] | Int[Tensor, "context pos"],
    table: TokenTable,
    whole_line: bool = False,
) -> Bool[np.ndarray, "context pos"]:
    """Which tokens hold a part of a match of a regular expression.

    Args:
        pattern: a regular expression over the bytes of each context, ^ and $ at the ends of lines; of a match that has
            a group, the group counts.
        tokens: token ids.
        table: the bytes of the tokens.
        whole_line: count the whole line that a match lies in.

    Returns:
        True for every token that a match touches. A special token reads as a line end, so no line runs over it.

    Raises:
        BookError: the tokens do not match the table.

    Source: ours.
    """
    wanted, ids = re.compile(pattern.encode(), re.MULTILINE), _checked(tokens, table)
    found = np.zeros(ids.shape, bool)
    for row, context in enumerate(ids):
        pieces = [table.bytes_of[token] or b"\n" for token in context]
        content = b"".join(pieces)
        spans = [match.span(match.lastindex or 0) for match in wanted.finditer(content)]
        if not spans:
            continue
        owner = np.repeat(np.arange(len(pieces)), [len(piece) for piece in pieces])
        for start, end in spans:
            if whole_line:
                start, end = content.rfind(b"\n", 0, start) + 1, content.find(b"\n", end) % (len(content) + 1)
            found[row, owner[start:end]] = True
    return found


def base64_proxy(
    tokens: Int[np.ndarray, "context pos"] | Int[Tensor, "context pos"],
    table: TokenTable,
    unigram_counts: Int[np.ndarray, " d_vocab"] | Int[Tensor, " d_vocab"],
) -> Float[np.ndarray, "context pos"]:
    """Log-likelihood ratio of base64 text.

        max over runs s of  sum over characters of log(1/64 or 1e-10)  -  sum over tokens of log P(token)

    Args:
        tokens: token ids.
        table: the bytes of the tokens.
        unigram_counts: occurrences of each token id in the corpus.

    Source: Bricken et al. 2023, appendix "Feature Proxies".
    Differs: a run does not cross a special token, since documents on its two sides have nothing to do with
    each other; a token that never occurs in the corpus counts as occurring once; each broken piece of a
    character is one character that does not belong.
    """
    ids = _checked(tokens, table)
    score, apart = _token_scores("base64", ids, table, unigram_counts), table.special[ids]
    return _best_run(score, apart).astype(np.float32)


def dna_proxy(
    tokens: Int[np.ndarray, "context pos"] | Int[Tensor, "context pos"],
    table: TokenTable,
    unigram_counts: Int[np.ndarray, " d_vocab"] | Int[Tensor, " d_vocab"],
) -> Float[np.ndarray, "context pos"]:
    """Log-likelihood ratio of nucleotide text, over runs of at least two tokens.

        max over runs s of >= 2 tokens of  sum over characters of log(1/4 or 1e-10)  -  sum over tokens of log P(token)

    Args:
        tokens: token ids.
        table: the bytes of the tokens.
        unigram_counts: occurrences of each token id in the corpus.

    Returns:
        The ratio; 0, which is not in class, where no run of two tokens ends (the first token of a document).

    Source: Bricken et al. 2023, appendix "Feature Proxies" (groups of at least two tokens, since CAT is also a word).
    Differs: as `base64_proxy`.
    """
    ids = _checked(tokens, table)
    score, apart = _token_scores("dna", ids, table, unigram_counts), table.special[ids]
    ratio = np.zeros_like(score)
    ratio[:, 1:] = np.where(apart[:, 1:] | apart[:, :-1], 0.0, score[:, 1:] + _best_run(score, apart)[:, :-1])
    return ratio.astype(np.float32)


def script_proxy(
    script: str,
    tokens: Int[np.ndarray, "context pos"] | Int[Tensor, "context pos"],
    table: TokenTable,
    ignore_space: bool = False,
    batch_tokens: int = 2**18,
) -> Float[np.ndarray, "context pos"]:
    """Log-likelihood ratio of text in one script.

        log P(script | s) / P(script),  P(script) = mean over all tokens given of P(script | s)

    A token that ends on a whole character looks back to that character's first byte, and P(script | s) is 1 or
    1e-10. A token that ends inside a character takes the share of its own occurrences, among the tokens given,
    that turn out to lie in the script; so does one whose character began before the context did. A token in
    the middle of a character looks back too: it takes the share of the characters that begin with these bytes.

    Args:
        script: a key of `SCRIPTS`.
        tokens: token ids, enough of them to estimate P(script).
        table: the bytes of the tokens.
        ignore_space: read " X" as "X": byte-level tokenizers glue the space to the word, and the paper's rule
            then puts every such token outside the script.
        batch_tokens: about how many tokens are decoded at a time.

    Returns:
        The ratio, never above -log P(script); 0 everywhere if the script does not occur.

    Source: Bricken et al. 2023, appendix "Feature Proxies".
    Differs: the run of a token that completes a character, or lies in its middle, begins at that character's
    first byte, even inside an earlier token; P(script) and the shares are measured on the tokens given; the
    blocks include the presentation forms.
    """
    if script not in SCRIPTS:
        raise BookError(f"no script is named {script!r}; choose one of {', '.join(SCRIPTS)}")
    ids = _checked(tokens, table)
    state, ends_inside, opening = np.empty(ids.shape, np.int8), np.empty(ids.shape, bool), np.empty(ids.shape, np.int64)
    step = max(1, batch_tokens // max(1, ids.shape[1]))
    for start in range(0, ids.shape[0], step):
        rows = slice(start, start + step)
        state[rows], ends_inside[rows], opening[rows] = _touched(SCRIPTS[script], ids[rows], table, ignore_space)

    # Shares are taken over the occurrences of a token, or of the bytes that a character in the making begins with.
    group = ids.astype(np.int64)
    openings, group_of_opening = np.unique(opening[opening > 0], return_inverse=True)
    group[opening > 0] = len(table) + group_of_opening
    n_groups = len(table) + len(openings)
    n_in, n_known = (np.bincount(group[chosen], minlength=n_groups) for chosen in (state == _IN, state != _UNKNOWN))
    share = n_in / np.maximum(n_known, 1)
    by_share = ends_inside | (state == _UNKNOWN)
    probability = np.maximum(np.where(by_share, share[group], state == _IN), OTHER)
    return (np.log(probability) - np.log(probability.mean())).astype(np.float32)


def _token_scores(
    name: str, ids: Int[np.ndarray, "context pos"], table: TokenTable, unigram_counts: Any
) -> Float[np.ndarray, "context pos"]:
    counts = np.asarray(unigram_counts)
    if counts.shape[0] < len(table) or counts.sum() <= 0:
        raise BookError(
            f"unigram_counts has {counts.shape[0]} entries that sum to {counts.sum()} for {len(table)} tokens; "
            "give the counts of the same tokenizer's shards"
        )
    alphabet = frozenset(ALPHABETS[name])
    inside = np.array([sum(byte in alphabet for byte in content) for content in table.bytes_of])
    # Decoding gives one replacement character for each broken piece of a character.
    length = np.array([len(content.decode("utf-8", errors="replace")) or 1 for content in table.bytes_of])
    log_class = inside * -np.log(len(alphabet)) + (length - inside) * np.log(OTHER)
    log_unigram = np.log(np.maximum(counts[: len(table)], 1)) - np.log(counts.sum())
    return (log_class - log_unigram)[ids]


def _best_run(score: Float[np.ndarray, "context pos"], apart: Bool[np.ndarray, "context pos"]) -> Float[np.ndarray, "context pos"]:
    """Largest sum of a run that ends at each token; runs neither enter nor leave the tokens marked `apart`."""
    best = score.copy()
    for pos in range(1, score.shape[1]):
        joined = ~(apart[:, pos] | apart[:, pos - 1])
        best[:, pos] += np.where(joined, np.maximum(best[:, pos - 1], 0.0), 0.0)
    return best


def _touched(
    blocks: tuple[tuple[int, int], ...], ids: Int[np.ndarray, "context pos"], table: TokenTable, ignore_space: bool
) -> tuple[Int[np.ndarray, "context pos"], Bool[np.ndarray, "context pos"], Int[np.ndarray, "context pos"]]:
    """Whether all characters that each token touches lie in the blocks; whether it ends inside a character; and, if
    that character began in an earlier token, its bytes so far as one number (else 0).
    """
    flat = ids.ravel()
    length = table._length[flat]
    ends = np.cumsum(length)
    starts = ends - length
    content = table._flat[np.repeat(table._offset[flat] - starts, length) + np.arange(length.sum())]
    bytes_per_row = length.reshape(ids.shape).sum(1)
    row_end = np.repeat(np.cumsum(bytes_per_row), bytes_per_row)
    row_start = row_end - np.repeat(bytes_per_row, bytes_per_row)

    first, need, whole, cut, code_point = _characters(content, row_end)
    lies_in = np.zeros(first.shape, bool)
    for low, high in blocks:
        lies_in |= (code_point >= low) & (code_point <= high)
    character_state = np.where(cut, _UNKNOWN, np.where(whole & lies_in, _IN, _OUT)).astype(np.int8)

    character = np.cumsum(content & 0xC0 != 0x80) - 1
    began_before = (character < 0) | (first[character] < row_start)
    stray = np.arange(content.size) >= first[character] + np.maximum(need[character], 1)
    byte_state = np.where(stray, _OUT, character_state[character]).astype(np.int8)
    byte_state[began_before] = _UNKNOWN
    if ignore_space:
        byte_state[starts[(content[starts] == 0x20) & (length > 1)]] = _IN

    last = ends - 1
    reaches_past = first[character[last]] + need[character[last]] - 1 > last
    ends_inside = reaches_past & (whole | cut)[character[last]] & ~began_before[last]
    opening = np.zeros(flat.shape, np.int64)
    middle = np.flatnonzero(ends_inside & (first[character[last]] < starts))
    begun, done = first[character[last[middle]]], last[middle]
    for distance in (0, 1, 2):
        opening[middle] = opening[middle] * 256 + np.where(begun + distance <= done, content[np.minimum(begun + distance, done)], 0)
    state = np.minimum.reduceat(byte_state, starts)
    return state.reshape(ids.shape), ends_inside.reshape(ids.shape), opening.reshape(ids.shape)


def _characters(
    content: np.ndarray, row_end: Int[np.ndarray, " byte"]
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """UTF-8 characters of a byte stream: first byte, bytes needed, is it whole, is it cut by its row's end, code point."""
    first = np.flatnonzero(content & 0xC0 != 0x80)
    if not first.size:
        # A stream of continuation bytes only: one character that never began keeps the indexing below valid.
        return np.array([-9]), np.array([0]), np.array([False]), np.array([False]), np.array([-1])
    need = _NEED[content[first]]
    code_point = (content[first] & _PAYLOAD[need]).astype(np.int64)
    whole, cut = need > 0, np.zeros(first.shape, bool)
    for follower in (1, 2, 3):
        waiting = np.flatnonzero(whole & ~cut & (need > follower))
        where = first[waiting] + follower
        beyond = where >= row_end[first[waiting]]
        cut[waiting[beyond]] = True
        waiting, where = waiting[~beyond], where[~beyond]
        continues = content[where] & 0xC0 == 0x80
        whole[waiting[~continues]] = False
        waiting, where = waiting[continues], where[continues]
        code_point[waiting] = (code_point[waiting] << 6) | (content[where] & 0x3F)
    return first, need, whole & ~cut, cut, code_point


def _needed_bytes() -> np.ndarray:
    need = np.zeros(256, np.int64)
    need[0x00:0x80], need[0xC2:0xE0], need[0xE0:0xF0], need[0xF0:0xF5] = 1, 2, 3, 4
    return need


_NEED = _needed_bytes()
"""Length of the UTF-8 character that each first byte announces; 0 for bytes that begin none."""

_PAYLOAD = np.array([0, 0x7F, 0x1F, 0x0F, 0x07], dtype=np.uint8)
"""Bits of the code point in the first byte, by length of the character."""


def _byte_alphabet() -> list[str]:
    """The printable letter that byte-level BPE writes for each byte, in byte order."""
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    letters, spare = [], 0x100
    for byte in range(256):
        if byte in printable:
            letters.append(chr(byte))
        else:
            letters.append(chr(spare))
            spare += 1
    return letters


def _checked(tokens: Any, table: TokenTable) -> Int[np.ndarray, "context pos"]:
    """Token ids as a NumPy array whose entries the table knows."""
    ids = tokens.cpu().numpy() if isinstance(tokens, Tensor) else np.asarray(tokens)
    if ids.size == 0:
        raise BookError("there are no tokens to judge; give at least one context")
    if ids.min() < 0 or ids.max() >= len(table):
        raise BookError(
            f"token ids run from {ids.min()} to {ids.max()} but the tokenizer has {len(table)}; use the tokenizer of these shards"
        )
    return ids


def _check_name(name: str) -> None:
    if name not in PROXIES:
        raise BookError(f"no proxy is named {name!r}; choose one of {', '.join(PROXIES)}")
