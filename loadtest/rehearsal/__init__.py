"""`anchorage rehearse`: GPU nodes up and down with demand, on one machine without a GPU.

What is real: Ray with its autoscaler v2, Ray Serve with our scaling rule, the application that a cluster runs (Api,
Embedder, Ingestor, Llm) with Milvus and the catalog, HTTP. What is not: nodes are Ray nodes on this machine
(FakeMultiNodeProvider), a GPU is a number in Ray's books, the engine says known words at known times.
"""
