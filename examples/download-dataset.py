r"""Write the first rows of every split of a dataset as JSON Lines, one file a split.

    python ./download-dataset.py --dataset HuggingFaceH4/ultrachat_200k \
        --download_dir ultrachat_200k_dataset --dataset_split_pc 5

The dataset is looked for in the folder that FINERY_HUB_MIRROR names, then on the Hugging Face
hub. It takes the arguments of the script of the same name in Azure's examples, so notebooks that
call it need no change; `finery data download` does the same.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from finery.chat.download import download_dataset
from finery.errors import FineryError


def arguments() -> argparse.Namespace:
    """What the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--dataset", default="samsum", help="name of the dataset")
    parser.add_argument("--dataset_subset", default=None, help="subset (configuration) of it")
    parser.add_argument(
        "--dataset_split_pc",
        default=None,
        type=float,
        help="percent of every split, from its first row; everything when it is not given",
    )
    parser.add_argument("--download_dir", default="data", type=Path, help="where the files go")
    return parser.parse_args()


def main() -> None:
    """Download, and say what was written."""
    asked = arguments()
    percent = 100.0 if asked.dataset_split_pc is None else asked.dataset_split_pc
    try:
        got = download_dataset(
            asked.dataset, asked.download_dir, percent, asked.dataset_subset or ""
        )
    except FineryError as error:
        sys.exit(f"download-dataset: {error}")
    print(f"From {got.source}:")
    for split in got.splits:
        print(f"  {split.path}: {split.rows} of {split.available} rows")


if __name__ == "__main__":
    main()
