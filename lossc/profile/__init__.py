"""How long kernels take, how long this machine needs at least, and how long PyTorch needs."""

#: Peers that a net can be compared with, and the kind of net that ``torch_net.py`` builds for each.
PEERS = {"torch": "eager", "torch-channels-last": "channels-last"}
