"""Keeping transformers and accelerate off the terminal while they load.

Their warnings are either of no interest to the user (offloading works as asked) or, like missing weights, become errors in
`load`; their progress bars are replaced by ours.
"""

import contextlib
import logging
import os
import warnings
from collections.abc import Callable, Iterator
from typing import Any


@contextlib.contextmanager
def quiet_transformers(weight_done: Callable[[str], None] | None = None) -> Iterator[None]:
    """No log lines, warnings or progress bars from transformers and accelerate inside; everything as before afterwards.

    weight_done: called with the name of each weight that transformers has put in place.
    """
    from transformers.utils import logging as hf_logging

    def hook(factory: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if weight_done is None or kwargs.get("desc") != "Loading weights" or not args:
            return factory(*args, **kwargs)
        return _report(args[0], weight_done)

    # transformers would ask a service on the Hub to convert .bin weights, in a background thread.
    variable = "DISABLE_SAFETENSORS_CONVERSION"
    with contextlib.ExitStack() as afterwards, warnings.catch_warnings():
        for logger in (logging.getLogger(name) for name in ("transformers", "accelerate")):
            if logger.level <= logging.CRITICAL:  # Unless an enclosing call has: each change walks a thousand loggers.
                afterwards.callback(logger.setLevel, logger.level)
                logger.setLevel(logging.CRITICAL + 1)
        if hf_logging.is_progress_bar_enabled():
            afterwards.callback(hf_logging.enable_progress_bar)
            hf_logging.disable_progress_bar()
        # The hook came after transformers 5.3; without it there is a label and no count.
        if (set_hook := getattr(hf_logging, "set_tqdm_hook", None)) is not None:
            afterwards.callback(set_hook, set_hook(hook))
        if variable not in os.environ:
            afterwards.callback(os.environ.pop, variable, None)
        else:
            afterwards.callback(os.environ.__setitem__, variable, os.environ[variable])
        os.environ[variable] = "1"
        warnings.simplefilter("ignore")
        yield


def _report(items: Any, weight_done: Callable[[str], None]) -> Iterator[Any]:
    """Pass (name, …) pairs through, reporting each once it has been dealt with."""
    for item in items:
        yield item
        weight_done(item[0])
