"""An answer from a list: choices as given (`config`), as tokens (`branches`), and what a model makes of them (`scores`).

    choices = Choices(("positive", "negative"))
    branched = branch(tokenizer, prompt, choices)           # the tokens and branches of a `decode.request.Request`
    scored = score_choices(choices, completion.branches)    # in the order given; `best(scored)` is the answer

Importing it does not import torch.
"""
