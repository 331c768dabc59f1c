"""Random sentences in the phonemes of Kokoro-82M: English-like and Japanese-like.

The words mean nothing. What counts is that every consonant meets every vowel, stressed and not, in
phrases with the rhythm and the punctuation of speech. The spelling is the model's own vocabulary:
IPA, with capital letters for the diphthongs of English (A as in day, I eye, O no, W now, Y boy).
"""

# IPA letters look like others (RUF001), and words in a row read best as text (SIM905).
# ruff: noqa: RUF001, SIM905

from __future__ import annotations

import numpy as np

_ONSETS = tuple(
    (
        "b d f h k l m n p s t v w z ɡ ð ɹ ʃ θ ʤ ʧ j bɹ bl dɹ fɹ fl kɹ kl kw pɹ pl st sp sk sl sn "
        "sw tɹ tw ɡɹ ɡl θɹ stɹ"
    ).split()
)
_STRESSED = tuple("æ ɑ ɛ ɜɹ i ɪ ɔ u ʊ ʌ A I O W Y ɑɹ ɔɹ".split())
_UNSTRESSED = tuple("ə ə ə ɪ i əɹ ᵊl ᵊn O".split())
_CODAS = tuple("b d f k l m n p s t v z ɡ ŋ ð ʃ θ ʤ ʧ nt nd st ks mp lz ts nz kt ft ɹd".split())
_SMALL_WORDS = tuple("ðə ə ænd ʌv tu ɪn ɪz ðæt fɔɹ wʌz ɪt æz wɪð hi æt bI ʃi hɪz ɑn ju".split())

# A mora may begin without a consonant.
_MORA_ONSETS = (
    *"k s t n h m ɾ j w ɡ z d b p kʲ ɕ ʨ ʦ ɲ ç ɸ mʲ ɾʲ ɡʲ ʥ".split(),
    *("",) * 4,
)
_MORA_VOWELS = tuple("a a i ɯ e o o".split())
_PARTICLES = tuple("βa ɡa o ɲi no de mo to ka".split())

_PAUSES = (",", ",", ",", ";", ":", " —")
_ENDS = (".", ".", ".", "?", "!", "...")


def english_like(rng: np.random.Generator, *, num_words: int) -> str:
    """Make up a sentence of `num_words` words with English syllables and stress."""
    return _sentence(rng, [_english_word(rng) for _ in range(num_words)])


def japanese_like(rng: np.random.Generator, *, num_words: int) -> str:
    """Make up a sentence of `num_words` words of Japanese morae."""
    return _sentence(rng, [_japanese_word(rng) for _ in range(num_words)])


def _sentence(rng: np.random.Generator, words: list[str]) -> str:
    pauses = [
        str(rng.choice(_PAUSES)) if rng.random() < 0.15 else "" for _ in range(len(words) - 1)
    ]
    spaced = [word + pause for word, pause in zip(words, [*pauses, ""], strict=True)]
    return " ".join(spaced) + str(rng.choice(_ENDS))


def _english_word(rng: np.random.Generator) -> str:
    if rng.random() < 0.3:
        return str(rng.choice(_SMALL_WORDS))
    num_syllables = int(rng.choice([1, 2, 3], p=[0.45, 0.4, 0.15]))
    stressed = int(rng.integers(num_syllables))
    syllables = []
    for index in range(num_syllables):
        onset = str(rng.choice(_ONSETS)) if rng.random() < 0.88 else ""
        nucleus = (
            "ˈ" + str(rng.choice(_STRESSED)) if index == stressed else str(rng.choice(_UNSTRESSED))
        )
        coda = (
            str(rng.choice(_CODAS)) if rng.random() < (0.6 if index == stressed else 0.15) else ""
        )
        syllables.append(onset + nucleus + coda)
    return "".join(syllables)


def _japanese_word(rng: np.random.Generator) -> str:
    morae = []
    for _ in range(int(rng.integers(2, 6))):
        mora = str(rng.choice(_MORA_ONSETS)) + str(rng.choice(_MORA_VOWELS))
        ending = rng.random()
        if ending < 0.12:
            mora += "ː"
        elif ending < 0.24:
            mora += "ɴ"
        elif ending < 0.3:
            mora += "ʔ"
        morae.append(mora)
    particle = str(rng.choice(_PARTICLES)) if rng.random() < 0.4 else ""
    return "".join(morae) + (" " + particle if particle else "")
