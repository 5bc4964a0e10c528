"""One module per subcommand of `olc`: click options in, a call into the library packages, output through `terminal`.

Each module defines `command`, which `cli` imports by name when it is chosen. A command checks its options first, without
importing torch, then opens the model (`shared.model`), then does its work. `complete` is the one to read first; `batch` is a
package of its own, and `shared` holds what several commands need.
"""
