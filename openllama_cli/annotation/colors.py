"""A color for every label of an entity: displaCy's for those it knows, always the same one for any other."""

import zlib

# spaCy's displaCy uses these; dark letters are readable on each.
_KNOWN = {
    "ORG": "#7aecec",
    "PRODUCT": "#bfeeb7",
    "GPE": "#feca74",
    "LOC": "#ff9561",
    "PERSON": "#aa9cfc",
    "PER": "#aa9cfc",
    "NORP": "#c887fb",
    "FAC": "#9cc9cc",
    "EVENT": "#ffeb80",
    "LAW": "#ff8197",
    "LANGUAGE": "#ff8197",
    "WORK_OF_ART": "#f0d0ff",
    "DATE": "#bfe1d9",
    "TIME": "#bfe1d9",
    "MONEY": "#e4e7d2",
    "QUANTITY": "#e4e7d2",
    "ORDINAL": "#e4e7d2",
    "CARDINAL": "#e4e7d2",
    "PERCENT": "#e4e7d2",
}
_OTHERS = tuple(dict.fromkeys(_KNOWN.values()))


def color(label: str) -> str:
    """The color of a label as "#rrggbb"."""
    return _KNOWN.get(label.upper()) or _OTHERS[zlib.crc32(label.encode()) % len(_OTHERS)]
