"""The Hugging Face Hub and its cache on disk. In comes a repository id and a revision, out comes the folder of a snapshot.

`cache` finds, lists and removes what is there, without network and without importing huggingface_hub. `pull.pull` gets what is
missing (begin there): `files` says what a model needs, `download` gets one file and resumes it, `errors` explains failures.
"""
