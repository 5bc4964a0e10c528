"""What olc says to a completions server, its own or another: addresses and keys, requests, and what answers mean.

`address` has the server's address and the key that opens it, `request` the JSON of a request, `answer` what comes back. Who
sends it is another matter: `batch.remote` many rows at a time, `serve.client` one request for a command.
"""
