"""What a result was made with, so that it can be made again: a record, and its JSON Schema.

`record.record` makes one of a run, `record.surroundings` the part that says where it ran. `schemas` has the schemas that ship
with olc, `validate` holds what is read against them. The form is in `openllama_cli/schemas/record.json`;
docs/reproducibility.md says what it promises.
"""
