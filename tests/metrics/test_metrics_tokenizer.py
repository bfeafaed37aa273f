import random
import shutil

import pytest
from hypothesis import given
from hypothesis import strategies as st

from captioner.metrics import tokenize

OBSERVED = {
    "brackets become codes that stay": ("(really) [ok] {x}", "-lrb- really -rrb- -lsb- ok -rsb- -lcb- x -rcb-"),
    "possessive s is a word": ("man's", "man 's"),
    "n't is a word": ("isn't can't don't won't", "is n't ca n't do n't wo n't"),
    "other contractions are split": ("i'm we've he'll she'd they're", "i 'm we 've he 'll she 'd they 're"),
    "cannot is two words": ("cannot", "can not"),
    "gonna and its like are two words": ("gonna gotta wanna lemme gimme", "gon na got ta wan na lem me gim me"),
    "tis is two words": ("'tis 'twas", "'t is 't was"),
    "n and o'clock keep apostrophes": ("rock 'n' roll o'clock", "rock 'n' roll o'clock"),
    "plural possessive loses its apostrophe": ("dogs' toys", "dogs toys"),
    "isolated quotes vanish": ("\"a\" 'b' ``c'' “d” ‘e’ «f» ' \"", "a b c d e f"),
    "curly apostrophes split like straight ones": ("man’s isn’t we’ll", "man 's is n't we 'll"),
    "decades keep their apostrophe": ("the '90s", "the '90s"),
    "abbreviations keep their dots": ("u.s. mr. etc. e.g. x.y.", "u.s. mr. etc. e.g. x.y."),
    "a final dot goes": ("a dog runs.", "a dog runs"),
    "a dot between letters joins them": ("a.b yes.no", "a.b yes.no"),
    "states keep their dot only when capitalised": ("Mass. mass.", "mass. mass"),
    "no keeps its dot only before a number": ("No. 5 no.", "no. 5 no"),
    "addresses stay whole": (
        "me@x.com www.a.com http://x.y/z?a=b foo.org",
        "me@x.com www.a.com http://x.y/z?a=b foo.org",
    ),
    "hyphenated words stay whole": ("t-shirt 20-year-old", "t-shirt 20-year-old"),
    "lone dashes go": ("a - b -- c – d — e --- f", "a b c d e f"),
    "prices are split": ("$5.00 €5 £5 5¢", "$ 5.00 $ 5 # 5 5 cents"),
    "percent signs are split": ("50%", "50 %"),
    "times lose their am and pm": ("5:30pm 5pm", "5:30 pm 5pm"),
    "hashes part from numbers only": ("#1 #b", "# 1 #b"),
    "ampersands are words except in capitals": ("a & b AT&T at&t", "a & b at&t at & t"),
    "slashes join": ("and/or 1/2 10/11/2012", "and/or 1/2 10/11/2012"),
    "thousands stay whole": ("1,000 10,000.50", "1,000 10,000.50"),
    "signs before numbers stay": ("-5 +5", "-5 +5"),
    "double primes go": ("10'' 10\"", "10 10"),
    "signs are words": ("_ * ~ ^ = < >", "_ * ~ ^ = < >"),
    "tags stay whole": ("<b> </b>", "<b> </b>"),
    "entities are read": ("a &amp; b &lt; c &quot;d&quot;", "a & b < c d"),
    "emoji are dropped": ("a 😀 dog🐶runs", "a dog runs"),
    "older symbols are words": ("a ☺ b→c 5°", "a ☺ b → c 5 °"),
    "letters beyond ascii are letters": ("Café naïve ÉCOLE 日本語", "café naïve école 日本語"),
    "soft hyphens vanish": ("data\xadset", "dataset"),
    "ellipses go": ("a... b… c . . . d ....", "a. b c d"),
    "commas and colons go": ("a, b; c: d! e?", "a b c d e"),
    "runs of exclamation marks stay": ("wow!! what?!", "wow !! what ?!"),
    "a mixed fraction is one word": ("1 1/2 cups ½", "1\xa01/2 cups 1/2"),
    "a telephone number is one word": ("call (555) 123-4567", "call -lrb-555-rrb-\xa0123-4567"),
    "faces stay whole": (":) :D ^_^", ":-rrb- :d ^_^"),
    "case is lowered": ("A Dog", "a dog"),
    "line breaks are spaces": ("a\ndog\r\nruns\tfast", "a dog runs fast"),
    "an empty caption is empty": ("", ""),
    "blanks only are empty": (" \n ", ""),
    "punctuation only is empty": ("... ! ? -- '' ,;:", ""),
}


@pytest.mark.parametrize(("caption", "words"), OBSERVED.values(), ids=OBSERVED)
def test_tokenizer_does_what_was_observed(caption, words):
    assert tokenize(caption) == words


@given(st.text(st.sampled_from("abcdeghiklmoprstuvwyz "), max_size=60))
def test_plain_words_pass_unchanged_so_tokenising_twice_is_tokenising_once(caption):
    once = tokenize(caption)
    assert once.split() == [part for word in caption.split() for part in tokenize(word).split()]
    assert tokenize(once) == once


@given(st.text(max_size=60))
def test_any_text_gives_lower_case_words_without_blanks(caption):
    words = tokenize(caption)
    assert words == words.lower()
    assert words == words.strip(" ")
    assert "  " not in words
    assert not set(words) & set("\n\t\r")


@given(st.text(max_size=40), st.text(max_size=40))
def test_a_line_break_is_a_space(first, second):
    assert tokenize(f"{first}\n{second}") == tokenize(f"{first} {second}")


PIECES = r"""
a the dog dogs' man's isn't can't cannot gonna 'tis o'clock it’s don’t “walks” ‘runs’ "jumps" 'sits' ``stands'' (red)
[blue] {big} u.s. U.S. mr. Mr. etc. e.g. jr. st. Ph.D. a.m. p.m. x.y. yes.no end.Start $5.00 50% 5:30 5:30pm 5pm #1
#tag @user & AT&T at&t R&B and/or w/ w/o 1/2 1,000 1.5 .5 -5 +1 3-4 10'' 6'2" '90s 1990s 1990's 20-year-old t-shirt
mid-air x-ray mother-in-law's 3D 4x4 2nd www.site.com http://site.org/a?b=c me@site.com site.com/page.html <b> </b>
<br/> &amp; &lt; &quot; _ * ** ~ ^ = == | \ / // - -- --- – — … ... .... , ; : . ! ? !! ?! :) :-( ;) :D <3 ^_^ 😀 🐶 ❤
☺ ™ ® © ° 20° ½ ¾ é café naïve ÉCOLE straße 日本語 русский x² → × ÷ € £5 €5 ¥5 5¢ n't 's rock'n'roll 'em 'cause
y'all ma'am d'or l'eau O'Brien who's-who ain't goin' No.5 no. c++ C# image.jpg IMG_1.jpg 12/25/2012 12-25-2012
555-1234 (555) 123-4567 24/7 s/he he/she A+ 100,000.00 1st. ltd. inc. corp. dept. apt. ave. blvd. mt. ft. lbs.
"""
FRAGMENTS = PIECES.split()


def nasty_captions(number):
    rng = random.Random(7)
    for _ in range(number):
        words = rng.choices(FRAGMENTS, k=rng.randint(1, 9))
        yield "a " + "".join(word + rng.choice([" ", " ", " ", ", ", ". ", "  ", "\n", "!"]) for word in words) + "b"


@pytest.mark.skipif(shutil.which("java") is None, reason="the reference tokenizer needs Java")
def test_tokenizer_equals_the_java_tokenizer_on_nasty_captions():
    from pycocoevalcap.tokenizer.ptbtokenizer import PTBTokenizer

    captions = [*FRAGMENTS, *nasty_captions(3000)]
    captions = [f"a {caption} b" for caption in captions]
    reference = PTBTokenizer().tokenize({n: [{"caption": caption}] for n, caption in enumerate(captions)})
    different = {
        caption: (tokenize(caption), reference[number][0])
        for number, caption in enumerate(captions)
        if tokenize(caption) != reference[number][0]
    }
    assert not different
