"""Captions to lower-case Penn Treebank words without punctuation, as the COCO caption evaluation splits them.

The COCO evaluation (Chen et al. 2015, arXiv 1504.00325) pipes captions through a Java tokenizer. The rules
here were written from what that tokenizer does to text, so that scores agree without Java. Knows nothing of
metrics.
"""

import re
import unicodedata
from functools import lru_cache

_TITLES = """
    adj adm adv alex asst atty ave brig capt cf cie cmdr col cpl dept det dr drs elec ens ft gen gov
    govs hon insp invt jos lt maj messrs mfg mlle mme mr mrs ms msgr mt mtg natl pfc ph pres prof pvt
    rep reps rev sen sens sfc sgt spc st ste supt vs wm
"""
_CLOSING = """
    al ala apr ariz assn aug bhd bldg blvd bros co colo conn corp cos ct dak dec esq est etc ext feb fla
    fri ga inc ind intl jan jr jul jun kan kans ky ltd mar md mich minn mo mon mont neb nev nov oct okla
    penn plc ppte ppty pte ptes pty ptys rd rt sep sept seq sq sr sys tel tenn thu tue tues univ va vt
    wed wis wisc wyo
"""  # abbreviations that may end a sentence
_STATES = "ark az del ill la mass miss ore pa tex wash "  # abbreviations only when capitalised
_BEFORE_NUMBERS = "art ca fig figs no nos op pp prop"
_STARTERS = """
    a about according additionally after an as at but earlier he her here however if in it last many more now once
    one other our she since so some such that the their then there these they this we what when while yet you mr.
    ms.
"""  # capitalised, they begin a sentence: the dot of a single letter before them is no abbreviation's
_EXTENSIONS = """
    bat bmp c cgi class cpp dll doc docx exe gif gz h htm html jar java jpeg jpg mov pdf php pl png ppt
    ps py sql tar txt wav x xml zip
"""

_A = "['’]"  # apostrophes of contractions
_Q = "['’‘`]"  # apostrophes inside words
_L = "[a-zé]"  # letters; é stands for every one beyond ASCII
_W = "[a-z0-9é]"
_WORDS = rf"{_L}{_W}*(?:[.!?]{_L}{_W}*)+"
_SLASHED = "[a-z0-9]+(?:-[a-z]+){0,2}"
_BOUNDS = r"\s\"()<>{}|"  # no address goes beyond these
_DOMAIN = r"(?-i:(?:[a-z#%&*+~\0\x80-\uffff]+\.)+)"
_PART = rf"(?:[dlo]{_Q}[a-z0-9é]{_W}+|{_W}+)"


def _any(words: str) -> str:
    """A group that matches any of the words, the longest first."""
    return f"(?:{'|'.join(map(re.escape, sorted(words.split(), key=len, reverse=True)))})"


# At every position the longest match wins, on a tie the first. Where a rule has a group, only that is the
# token; the rest was looked at and counts as length.
_RULES = [
    # Markup: character entities, comments and tags with quoted attributes.
    r"&(?:amp|lt|gt|quot|apos|nbsp|[mn]dash|#\d+|HT|TL|UR|LR|Q[CLR]|[oc]dq|[aeiou](?:acute|grave|uml));",
    r"<[!?][a-z-][^<>]*>|</[a-z][\w:.-]*>",
    r"<[a-z][\w:.-]*(?:\ +[a-z][\w:.-]*(?:='[^']*'|=\"[^\"]*\")?)*\ */?>",
    # Contractions: is|n't, man|'s, can|not, 't|is; and the words with an apostrophe of their own.
    rf"([a-z]*[a-mo-z])n{_Q}t",
    rf"n{_Q}t",
    rf"({_W}+){_A}(?:[dms]|ll|re|ve)(?![a-z])",
    rf"({_A}(?:[dms]|ll|re|ve))(?:[^a-z]|$)",
    rf"(?:(can)not|(gon|wan)na|(got)ta|(gim|lem)me)(?!{_W}|{_A}(?:[a-z]{{2}}|[dms]))|('t)(?:is|was)",
    rf"{_A}n{_A}|{_A}(?:cause|till|til|em|n)",
    r"(')[a-z]\S",
    rf"{_A}(?:[dms]|ll|re|ve)",
    rf"{_A}\d\d(?:s|(?!\S))",
    rf"(?:n|(?-i:[A-HJ-NP-XZ])){_Q}{_L}{_L}+|o{_Q}o|qu{_A}[a-z]+|c{_A}mon|s{_A}mores|e{_A}er|ol{_A}|y’all",
    rf"{_L}+[aeiouy]{_Q}(?:[aeiou]|(?-i:[A-Z])){_L}*",
    rf"[djl]{_A}|y{_A}(?=[a-z])",
    # Words: joined by dots, hyphens, underscores or slashes; abbreviations keep their dot.
    rf"({_any(_CLOSING)}\.).",
    rf"{_PART}(?:[_-]{_PART})*",
    _WORDS,
    rf"{_W}+(?:\.{_W}+)*\.{_any(_EXTENSIONS)}(?=[\s.,!?;:]|$)",
    rf"[a-z](?:\.[a-z])+\.|(?:ph|ed)\.d\.|(?:{_any(_TITLES)}|{_any(_CLOSING)}|[a-z])\.",
    rf"(?-i:{_any(_STATES.title())}|{_any(_STATES.upper())})\.",
    rf"({_any(_BEFORE_NUMBERS)}\.)\ ?\d",
    rf"([a-z])\.\s+(?-i:{_any(_STARTERS.title())}|{_any(_STARTERS.upper())})(?!\S)",
    rf"((?:{_WORDS}|{_W}+(?:[.-]{_W}+)*)\.)[,:;]",
    r"[a-z0-9][a-z0-9.,]*(?:-(?:[a-z](?:\.[a-z])+\.|[a-z0-9]+))+",
    rf"{_SLASHED}(?:\\?/{_SLASHED}){{1,2}}",
    r"(?-i:[A-Z]+(?:[&+][A-Z]+)+|[A-Z]+\$)|c\+\+|[cf]\#",
    # Numbers: signed, with separators, fractions, dates, telephone numbers.
    r"[-+]?(?:\d*(?:[.,:]\d+)+|\d+)",
    r"(?:\d{1,4}[- ])?\d{1,4}\\?/\d{1,4}",
    r"\d{1,2}[-/]\d{1,2}[-/]\d{2,4}",
    r"(?:\(\d{2,3}\)\ ?|\+?\d{2,4}[- ](?:\d{2,4}[- ])?)\d{3,4}[- ]?\d{3,5}",
    # Internet: addresses, names and tags.
    rf"https?://[^{_BOUNDS}]+[^{_BOUNDS}!,.?-]",
    rf"(?:www\.(?:[^{_BOUNDS}!,.?]+\.)+[a-z]{{2,4}}|{_DOMAIN}(?:com|net|org|edu))(?:/[^\s\"()<>|]+[^{_BOUNDS}!,.?-])?",
    rf"<?[a-z0-9][^{_BOUNDS}@]*@[^{_BOUNDS}.]+(?:\.[^{_BOUNDS}.]+)*>?",
    rf"@[a-z_][a-z_0-9]*|\#{_L}+",
    # Runs of one sign, pairs of quotes, faces.
    r"[?!]+|#{2,}|@{2,}|_{2,}|\*{2,}|-{5,}|-{1,4}|\.{3,5}|<<|>>|\\\*",
    r"''|[`’‘“”]{1,2}",
    r"[<>]?[:;=][-'*o]?(?:[][(){|@\\]|(?-i:[DPOdp]))(?![a-z0-9])",
    r"['<=>^~x-]_['<=>^~x-]|\(['<=>^~x-][._-]?['<=>^~x-]\)",
]
_PATTERNS = [re.compile(rule, re.IGNORECASE) for rule in _RULES]
# Only in such captions does a word depend on the next: fractions, telephone numbers, "No. 5", tags, "plan B. The".
_SPANS_SPACES = re.compile(r"[\d<]|\b[a-zA-Z]\.\s+[A-Z]").search

# The rules read a caption's shape: each character replaced by the first of its group, é for any other letter
# and ¤ for any other sign.
_GROUPS = [
    "’›\x92",
    "‘‹‛\x91",
    "“«\x93",
    "”»\x94",
    "–—―\x96\x97",
    "-‐‑֊",
    "€¤₠\x80",
    "\t\r\v\f\x85\u2028\u2029",
]
# Signs are words of their own, given as ranges of code points; what is neither sign nor letter is dropped.
_SIGNS = """
    a1 a5-a9 ac ae-b4 b6-b9 bf d7 f7 37e 387 589 5be 5c0 5c3 5c6 5f3-5f4 600-603 606-60c 614 61b 61e-61f
    66a 66d 6d4 700-70d 7f6-7f8 964-965 e3f e4f 1fbd 2016-2017 201a 201e-2023 2030-2038 203b 203e-2042
    2070 2074-207e 2080-208e 20a4 2100-2101 2103-2106 2108-2109 2114 2116-2118 211e-2123 2125 2127 2129
    212e 213a-213b 2140-2144 214a-214d 214f 2155-215e 2190-2bff 3001-3002 3012 30fb ff01-ff0f ff1a-ff20
    ff3b-ff40 ff5b-ff65 ffe0-ffe1 ffe5-ffe6
"""
_SIGN_RANGES = [(int(a, 16), int(b or a, 16)) for a, _, b in (sign.partition("-") for sign in _SIGNS.split())]

_QUOTES = {"`": "`", "’": "'", "‘": "`", "“": "``", "”": "''"}
_SPELLINGS = {
    **_QUOTES,
    **{first + second: _QUOTES[first] + _QUOTES[second] for first in _QUOTES for second in _QUOTES},
    **{
        "’d": "'d",
        "’m": "'m",
        "’s": "'s",
        "’ll": "'ll",
        "’re": "'re",
        "’ve": "'ve",
        "n’t": "n't",
        "n‘t": "n`t",
    },
    **{"(": "-lrb-", ")": "-rrb-", "[": "-lsb-", "]": "-rsb-", "{": "-lcb-", "}": "-rcb-"},
    **{"€": "$", "£": "#", "¢": "cents", "½": "1/2", "¼": "1/4", "¾": "3/4", "⅓": "1/3", "⅔": "2/3"},
    **{"&amp;": "&", "&lt;": "<", "&gt;": ">", "&quot;": "''", "&apos;": "'", "&nbsp;": ""},
    **{"&mdash;": "--", "&ndash;": "--", "–": "--", "---": "--", "----": "--", "-": "-", "…": "..."},
}
_INSIDE_WORDS = {ord("("): "-lrb-", ord(")"): "-rrb-", ord(" "): "\xa0"}
_SKIPPED = (" ", "\t", "\0")
_DROPPED = frozenset(["", '"', "''", "'", "``", "`", ".", "...", "....", ".....", "?", "!", ",", ":", ";", "-", "--"])


def tokenize(caption: str) -> str:
    """Split a caption into lower-case words, joined by spaces; punctuation is dropped.

    `"A man's dog isn't here."` becomes `"a man 's dog is n't here"`. A line break counts as a space,
    characters beyond the Basic Multilingual Plane (emoji) vanish, and a caption of punctuation only becomes
    `""`. The few words with a space inside ("1 1/2", telephone numbers) keep it as a no-break space.
    """
    if _SPANS_SPACES(caption):
        return " ".join(_split(caption))
    return " ".join([word for chunk in caption.split() for word in _split(chunk)])


@lru_cache(maxsize=1 << 16)
def _split(text: str) -> tuple[str, ...]:
    text = text.replace("\xad", "").replace("\n", " ")
    shape = text.translate(_SHAPES)
    words = []
    position = 0
    while position < len(shape):
        end = _end_of_token(shape, position)
        word = _SPELLINGS.get(shape[position:end].lower())
        if word is None:
            word = text[position:end].lower().translate(_INSIDE_WORDS)
        if word not in _DROPPED and shape[position:end] not in _SKIPPED:
            words.append(word)
        position = end
    return tuple(words)


def _end_of_token(shape: str, position: int) -> int:
    longest, end = 0, position + 1
    for pattern in _PATTERNS:
        found = pattern.match(shape, position)
        if found and found.end() - position > longest:
            longest = found.end() - position
            end = found.end(found.lastindex or 0)
    return end


class _Shapes(dict):
    """Code point to shape, for `str.translate`; filled as characters turn up."""

    def __missing__(self, code: int) -> str:
        self[code] = shape = _shape(chr(code))
        return shape


_SHAPES = _Shapes()


def _shape(character: str) -> str:
    for group in _GROUPS:
        if character in group:
            return group[0]
    if character.isspace():
        return " "
    if " " < character <= "~" or character in "£¢½¼¾⅓⅔…":
        return character
    if any(first <= ord(character) <= last for first, last in _SIGN_RANGES):
        return "¤"
    return "é" if _is_letter(character) else "\0"


def _is_letter(character: str) -> bool:
    """Letters, digits and, where an alphabet needs them, combining marks; Basic Multilingual Plane only."""
    code, category = ord(character), unicodedata.category(character)
    combining = 0x2C2 <= code <= 0x36F or (code < 0xF00 and category in ("Mn", "Mc"))
    return code <= 0xFFFF and (combining or category == "Nd" or category[0] == "L")
