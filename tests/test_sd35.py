"""The paper's experiment in small: notebooks 04 to 07 on a random-weight Stable Diffusion 3.5 in T2I-CompBench."""

import json

import pytest
from papermill import execute_notebook
from small_pipelines import save_stable_diffusion_3_5
from vision_models import build_all, write_prompts

from lab.paths import notebooks_folder
from lab.study.profiles import default_parameters, numbered_notebooks

NAMES = [name for name in numbered_notebooks(notebooks_folder()) if name[:2] in ("04", "05", "06", "07")]


@pytest.mark.slow
def test_the_papers_experiment_runs_from_end_to_end(tmp_path, monkeypatch):
    pytest.importorskip("spacy")
    for name, value in (build_all(tmp_path / "vision") | write_prompts(tmp_path / "prompts")).items():
        monkeypatch.setenv(name, value)
    save_stable_diffusion_3_5(tmp_path / "model")
    given = {"model": str(tmp_path / "model"), "world": "compbench", "measure": "score", "size": 32, "steps": 4}
    given |= {"output": str(tmp_path / "report"), "gradient_checkpointing": True, "gradient_accumulation": 2}
    given |= {"n_prompts": 1, "val_prompts": 1, "candidates": 4, "batch": 8, "tuning_steps": 3, "seeds": [0]}
    for name in NAMES:
        source = notebooks_folder() / f"{name}.ipynb"
        parameters = {each: value for each, value in given.items() if each in default_parameters(source)}
        execute_notebook(
            source, tmp_path / "done.ipynb", parameters, kernel_name="python3", cwd=notebooks_folder(),
            progress_bar=False, log_output=False,
        )  # fmt: skip
    results = {path.stem: json.loads(path.read_text()) for path in (tmp_path / "report" / "results").glob("*.json")}
    assert {"scoring", "finetuning", "evaluation", "sd35"} <= results.keys()
    assert results["sd35"]["adapter_parameters"] == {"published_names": 23_887_872, "diffusers_script": 18_776_064}
    categories = {row["category"] for row in results["evaluation"]["by_category"]}
    assert {"color", "3d_spatial", "non_spatial", "complex"} <= categories
    scores = [row["value"] for row in results["evaluation"]["by_category"]]
    assert all(-1 <= score <= 1 for score in scores) and len({*scores}) > 8  # graded, and not verdicts
