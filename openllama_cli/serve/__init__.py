"""A warm model behind HTTP: OpenAI's completions with echo and log-probabilities, for programs, pages and olc itself.

    web side (asyncio)       guard → app → request → scheduler ─┐        rows join the one decode loop between its steps
    engine thread (torch)                     engine: decode ◀──┘──▶ steps, back to app → answer → the client

In: a function that loads a model, and `Settings`. Out: a process that answers. Begin reading with `engine.py`, which owns the
model, and `app.py`, which has the routes. Nothing here imports torch before the model is loaded. `local_socket.py` names the
socket by which olc's other commands find a server, and imports little.
"""
