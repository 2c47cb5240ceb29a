"""Imported once before processes are forked; computes nothing, since threads do not survive a fork."""

import IPython.display  # noqa: F401
import pandas  # noqa: F401
import plotly.graph_objects  # noqa: F401
import torch
import transformers.models.llama.modeling_llama  # noqa: F401

import lagkit.analysis.support
import lagkit.analysis.support_page
import lagkit.experiment
import lagkit.lab
import lagkit.nightly.run
import lagkit.plots.drift
import lagkit.plots.forest  # noqa: F401

torch.set_num_threads(1)
