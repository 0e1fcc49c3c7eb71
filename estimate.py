"""Estimate influences from the records of a study; the code is in `sourcewise.commands.estimate`.

python estimate.py records=runs/<study> out=outputs/<name>
"""

from sourcewise.commands.estimate import main

if __name__ == "__main__":
    main()
