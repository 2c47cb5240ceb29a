"""Imported once before processes are forked; computes nothing, since threads do not survive a fork."""

import IPython.display  # noqa: F401
import pandas  # noqa: F401
import plotly.graph_objects  # noqa: F401
import torch
import transformers.models.llama.modeling_llama  # noqa: F401

torch.set_num_threads(1)
