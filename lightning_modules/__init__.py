"""What Lightning runs: pretraining and transfer, outputs per example, data modules. Tensors only."""
