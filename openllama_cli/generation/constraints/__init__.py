"""Completions that match a regular expression, a JSON schema or a grammar: the text as it is printed, whatever its tokens.

    constraint = Constraint("regex", r" \\d{4}")              # checked; wrong usage ends here (`config`)
    matcher = Matcher(constraint, tokenizer, prompt)         # a row's place in it: which tokens may come next (`matcher`)
    constraint.matches(text)                                 # whether a finished text is a complete match

The work is llguidance's (`library`), which comes with the extra `constrain`. A source becomes a grammar of llguidance's once
(`grammar`), is compiled for a vocabulary once (`vocabulary`), and rows share what was compiled.

Importing it imports neither torch nor llguidance.
"""
