"""Train source models and record what they say of the targets; the code is in `sourcewise.commands.train`.

One run:  python train.py
A sweep:  python train.py -m 'subset.seed=range(0,96)'
"""

from sourcewise.commands.train import main

if __name__ == "__main__":
    main()
