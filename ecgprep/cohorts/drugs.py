"""Drugs: which agent a text names, and which class the agent belongs to.

A text names an agent when every word of the agent's name is one of its words, whatever the case,
the salt or the order: `Doxorubicin HCl`, `doxorubicin, liposomal`, `Trastuzumab-xyz`. A trade name
counts as its agent. Nothing is guessed: a misspelt drug is in no class, and is listed.
"""

from __future__ import annotations

import functools
import re
import unicodedata
from collections.abc import Iterable, Mapping

CLASSES: dict[str, tuple[str, ...]] = {
    "anthracycline": ("doxorubicin", "daunorubicin", "epirubicin", "idarubicin"),
    "anti_her2": (
        "trastuzumab",
        "pertuzumab",
        "margetuximab",
        "lapatinib",
        "neratinib",
        "tucatinib",
        "zanidatamab",
    ),
    "ici": (
        "atezolizumab",
        "avelumab",
        "camrelizumab",
        "cemiplimab",
        "dostarlimab",
        "durvalumab",
        "ipilimumab",
        "nivolumab",
        "pembrolizumab",
        "relatlimab",
        "retifanlimab",
        "sintilimab",
        "tislelizumab",
        "toripalimab",
        "tremelimumab",
    ),
    "vegf": (
        "axitinib",
        "bevacizumab",
        "cabozantinib",
        "lenvatinib",
        "pazopanib",
        "ramucirumab",
        "regorafenib",
        "sorafenib",
        "sunitinib",
        "vandetanib",
    ),
    "bcr_abl": ("asciminib", "bosutinib", "dasatinib", "imatinib", "nilotinib", "ponatinib"),
    "btk": ("acalabrutinib", "ibrutinib", "zanubrutinib"),
    "raf_mek": (
        "binimetinib",
        "cobimetinib",
        "dabrafenib",
        "encorafenib",
        "trametinib",
        "vemurafenib",
    ),
    "proteasome": ("bortezomib", "carfilzomib", "ixazomib"),
    "fluoropyrimidine": ("capecitabine", "fluorouracil", "tegafur"),
}
"""Built-in classes and their agents. Mitoxantrone is no anthracycline: a task may name it."""

TRADE_NAMES: dict[str, str] = {
    "adriamycin": "doxorubicin",
    "adriblastin": "doxorubicin",
    "adriblastina": "doxorubicin",
    "caelyx": "doxorubicin",
    "doxil": "doxorubicin",
    "lipodox": "doxorubicin",
    "myocet": "doxorubicin",
    "rubex": "doxorubicin",
    "cerubidin": "daunorubicin",
    "cerubidine": "daunorubicin",
    "daunoxome": "daunorubicin",
    "vyxeos": "daunorubicin",
    "ellence": "epirubicin",
    "farmorubicin": "epirubicin",
    "farmorubicine": "epirubicin",
    "pharmorubicin": "epirubicin",
    "idamycin": "idarubicin",
    "zavedos": "idarubicin",
    "novantrone": "mitoxantrone",
    "enhertu": "trastuzumab",
    "herceptin": "trastuzumab",
    "herzuma": "trastuzumab",
    "kadcyla": "trastuzumab",
    "kanjinti": "trastuzumab",
    "ogivri": "trastuzumab",
    "ontruzant": "trastuzumab",
    "phesgo": "pertuzumab trastuzumab",
    "trazimera": "trastuzumab",
    "zercepac": "trastuzumab",
    "perjeta": "pertuzumab",
    "margenza": "margetuximab",
    "tykerb": "lapatinib",
    "tyverb": "lapatinib",
    "nerlynx": "neratinib",
    "tukysa": "tucatinib",
    "ziihera": "zanidatamab",
    "bavencio": "avelumab",
    "imfinzi": "durvalumab",
    "imjudo": "tremelimumab",
    "jemperli": "dostarlimab",
    "keytruda": "pembrolizumab",
    "libtayo": "cemiplimab",
    "loqtorzi": "toripalimab",
    "opdivo": "nivolumab",
    "opdualag": "nivolumab relatlimab",
    "tecentriq": "atezolizumab",
    "tevimbra": "tislelizumab",
    "yervoy": "ipilimumab",
    "zynyz": "retifanlimab",
    "avastin": "bevacizumab",
    "cabometyx": "cabozantinib",
    "cyramza": "ramucirumab",
    "inlyta": "axitinib",
    "lenvima": "lenvatinib",
    "nexavar": "sorafenib",
    "stivarga": "regorafenib",
    "sutent": "sunitinib",
    "votrient": "pazopanib",
    "glivec": "imatinib",
    "gleevec": "imatinib",
    "iclusig": "ponatinib",
    "sprycel": "dasatinib",
    "tasigna": "nilotinib",
    "imbruvica": "ibrutinib",
    "mekinist": "trametinib",
    "tafinlar": "dabrafenib",
    "kyprolis": "carfilzomib",
    "ninlaro": "ixazomib",
    "velcade": "bortezomib",
    "5fu": "fluorouracil",
    "xeloda": "capecitabine",
}
"""Trade names, each a single word, and the agents they stand for."""

DOXORUBICIN_EQUIVALENTS = {
    "doxorubicin": 1.0,
    "epirubicin": 0.8,
    "daunorubicin": 0.6,
    "idarubicin": 5.0,
    "mitoxantrone": 10.5,
}
"""Factor by which a dose in mg/m² becomes the dose of doxorubicin that is as toxic to the heart.

As in the 2022 ESC guidelines, after Feijen et al. (JAMA Oncol 2019;5:864-871), which studied
childhood cancer and did not find a factor for epirubicin and idarubicin that it could rely on.
"""

_WORD = re.compile(r"[^\W_]+")


@functools.lru_cache(maxsize=4096)
def words_of(text: str) -> frozenset[str]:
    """Return the words of a drug's text in lower case, with trade names replaced by agents."""
    plain = unicodedata.normalize("NFKC", text).casefold()
    found: set[str] = set()
    for word in _WORD.findall(plain.replace("5-fu", "5fu")):
        found.update(TRADE_NAMES.get(word, word).split())
    return frozenset(found)


def agents_of(entries: Iterable[str], own: Mapping[str, Iterable[str]]) -> tuple[str, ...]:
    """Return the agents that a task's entries stand for: classes, its `own` first, or agents."""
    agents: dict[str, None] = {}
    for entry in entries:
        members = own.get(entry) or CLASSES.get(entry) or (entry,)
        agents.update(dict.fromkeys(members))
    return tuple(agents)


def names_any(text: str, agents: Iterable[str]) -> bool:
    """Say whether a drug's text names one of the agents."""
    words = words_of(text)
    return any(words_of(agent) <= words for agent in agents)


def doxorubicin_factor(text: str) -> float | None:
    """Return the factor of the anthracycline, or mitoxantrone, that a text names, or None."""
    words = words_of(text)
    return next((k for agent, k in DOXORUBICIN_EQUIVALENTS.items() if agent in words), None)


def is_known(text: str, own: Mapping[str, Iterable[str]]) -> bool:
    """Say whether a drug's text belongs to any class, built in or of the task's `own`."""
    every = (agent for agents in (*CLASSES.values(), *own.values()) for agent in agents)
    return names_any(text, (*every, *DOXORUBICIN_EQUIVALENTS))
