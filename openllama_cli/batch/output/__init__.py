"""From results to OUTPUT: the lines, the lock, and the file that appears complete or not at all.

`results.Results` writes each `Result` to the journal, annotated if asked; `output.write_output` makes OUTPUT of a full
journal, `output.check_output` refuses one that cannot or must not be written; `lock.output_lock` allows one run at a time.
"""
