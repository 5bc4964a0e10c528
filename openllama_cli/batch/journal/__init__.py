"""The finished rows of a batch on disk: appended one line at a time, checked by checksums, resumed after a crash.

Begin with `journal.Journal`: `open` under a header (`header.batch_header`, all that results depend on), `append` a row's line,
read them in the order of the input with `lines`. `format` has the lines themselves, `disk` the errors of a disk.
"""
