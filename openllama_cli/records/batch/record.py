"""The record of a batch: by what and where its rows were made, run by run, and all by which they are made again."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from openllama_cli.records.record import VERSION, surroundings

if TYPE_CHECKING:
    from openllama_cli.models.loading.load import LoadedModel

# The surroundings of rows, by their names in every record.
PLACE = ("versions", "quantization", "dtype", "device", "machine", "engine", "forward")
_UNKNOWN: Mapping[str, Any] = dict.fromkeys(PLACE)


def batch_record(
    header: Mapping[str, Any],
    settings: Mapping[str, Any],
    runs: Sequence[Mapping[str, Any]],
    told: Mapping[str, Any],
    facts: Mapping[str, Any],
) -> dict[str, Any]:
    """Of a batch that has ended.

    header: its journal's, with all that its rows depend on. settings: by which its rows were read, see `batch.input.saved`.
    runs: see `Journal.runs`. told: of the model. facts: of input and output. The surroundings are those of most rows.
    """
    known = merged(runs)
    place = dict(max(known, key=lambda run: int(run["rows"]))["places"][0]) if known else {}
    return {
        "olc_record": VERSION,
        "command": "batch",
        **_UNKNOWN,
        **place,
        **told,
        **{name: header.get(name) for name in ("tokenizer", "server", "options")},
        "settings": settings,
        "runs": known,
        **facts,
    }


def merged(runs: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The runs of a journal with those in the same surroundings as one; `by` is None where nothing is known."""
    found: list[dict[str, Any]] = []
    for run in runs:
        places = run.get("places") or [dict(_UNKNOWN)]
        own = {"by": run.get("by"), "batch_size": run.get("batch_size"), "places": places}
        same = next((one for one in found if {**one, **own} == one), None)
        if same is None:
            found.append({**own, "rows": run["rows"]})
        else:
            same["rows"] += run["rows"]
    return found


def run_of(by: str, places: Sequence[Mapping[str, Any]], batch_size: int | None = None) -> dict[str, Any]:
    """One run. by: local, ray or server. places: the surroundings of its rows; of Ray's workers there may be several, and each
    row was made in one of them. batch_size: rows at a time at the most; None where that is for others to choose.
    """
    return {"by": by, "batch_size": batch_size, "places": [dict(place) for place in places]}


def place_of(loaded: "LoadedModel") -> dict[str, Any]:
    """The surroundings in which a model runs in this process."""
    found = surroundings(loaded, "batch", "loop", None)
    return {name: found[name] for name in PLACE}


def server_place(olc: Mapping[str, Any] | None, machine: Mapping[str, Any] | None) -> dict[str, Any]:
    """The surroundings of rows that a server completed, as far as it tells them. olc: what olc's own says of its model."""
    if olc is None:
        return dict(_UNKNOWN)
    dtype, activations = olc.get("dtype"), olc.get("activation_dtype")
    told = {"dtype": activations or dtype, "quantization": dtype if activations else None, "machine": machine}
    return {**_UNKNOWN, **{name: olc[name] for name in PLACE if name in olc}, **told}
