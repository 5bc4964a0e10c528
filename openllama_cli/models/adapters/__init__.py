"""LoRA adapters as PEFT saves them, merged into a model's weights as they are read, without peft.

In comes a folder with adapter_config.json and adapter_model.safetensors (or .bin), out comes an `adapter.Adapter`: what it does
to which weight, from headers alone, without torch. Begin with `apply.with_adapters`; `config` reads what an adapter says of
itself, `find` finds it, `merge` computes.
"""
