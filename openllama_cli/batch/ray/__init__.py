"""The Ray engine: the rows of one batch on many workers, each with the model and the local engine's Runner.

Begin with `cluster.open_ray_runner`, which starts or joins a cluster and yields an `engine.RayRunner`; it is used like a
`Runner`. `worker.RayWorker` is the actor. The driver imports no torch, and `options` no Ray.
"""
