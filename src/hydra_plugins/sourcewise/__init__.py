"""The launcher and the sweeper of `python train.py -m`."""
