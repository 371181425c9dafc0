"""Settings every test shares."""

import torch

# Tiny networks gain nothing from more threads, and spinning threads starve the processes other tests start.
torch.set_num_threads(1)
