"""The files of a model: Hugging Face's format (safetensors or .bin, sharded or not), Meta's, and GGUF (`gguf`).

In comes a folder, out comes an `inspect.Checkpoint` with all that its headers and configuration say, read once, without torch.
`tensors.TensorSource` reads weights from where the checkpoint says they lie; `convert.convert` writes them as safetensors.
Begin with `inspect.inspect`.
"""
