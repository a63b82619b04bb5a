"""Fine-tuning's throughput beside that of diffusers' own LoRA training, as JSON (`lab.study.finetuning_cost`).

    .venv/bin/python lab/benchmarks/finetuning_speed.py --batch 64 --rounds 8 --steps 4
"""

from __future__ import annotations

import argparse
import json

import torch

from lab.study.finetuning_cost import throughput
from lab.study.provenance import provenance

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--steps", type=int, default=4, help="steps of each loop in a round")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--precision", default="no", choices=("no", "bf16", "fp16"))
    print(json.dumps(throughput(**vars(parser.parse_args())) | {"provenance": provenance()}, indent=1))
