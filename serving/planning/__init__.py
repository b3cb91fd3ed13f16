"""What a model needs and what a cluster would do: pure Python, without Ray, Kubernetes or a GPU.

`plan` reads a model's configuration; `simulate` replays requests against the rules of the autoscalers.
"""
