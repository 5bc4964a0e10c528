"""Few-shot prompts: worked examples from a file in front of what is to be answered.

    heading, once          Each text is positive or negative.

    examples, answered     Text: I slept badly.
                           Sentiment: negative

    the row itself         Text: The soup was hot.
                           Sentiment:

Begin with `prompts.FewShot`, which makes a prompt of a template, `examples.read_examples` and the values of a row; `order` says
which examples come first, `fitting` leaves out those for which a model's context has no room.
"""

from openllama_cli.few_shot.examples import Examples, read_examples
from openllama_cli.few_shot.fitting import Fitting
from openllama_cli.few_shot.prompts import FewShot, FewShotPrompt

__all__ = ["Examples", "FewShot", "FewShotPrompt", "Fitting", "read_examples"]
