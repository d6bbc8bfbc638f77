"""Fine-tune a chat model, see what it learned, and let it answer: the whole way, with Azure's SDK.

    finery init                                  # writes config.json, once
    finery exec -- python walkthrough.py

Everything here is azure-ai-ml as the package index has it; `finery exec` starts the service when
none runs and lets the SDK find it. The conversations are those of the help desk of a small ferry
line, which come with finery. On two CPU cores it takes some minutes; --steps 20 is quicker and
learns less.
"""

import argparse
import json
import tempfile
import time
from pathlib import Path

from azure.ai.ml import Input, MLClient
from azure.ai.ml.constants import AssetTypes
from azure.ai.ml.dsl import pipeline
from azure.ai.ml.entities import ManagedOnlineDeployment, ManagedOnlineEndpoint, Model
from azure.identity import DefaultAzureCredential

from finery import quickstart

options = argparse.ArgumentParser(description="Fine-tune, register, deploy, ask.")
options.add_argument("--model", default="SmolLM2-135M-Instruct", help="a model of the registry")
options.add_argument("--steps", default=110, type=int, help="optimizer steps")
asked = options.parse_args()

# 1. Two clients: one for the workspace that config.json names, one for the registry, where base
#    models and ready-made pipelines come from.
credential = DefaultAzureCredential()
workspace = MLClient.from_config(credential)
registry = MLClient(credential, registry_name="azureml")

# 2. The base model and the pipeline that tunes chat models.
base = registry.models.get(asked.model, label="latest")
tune_chat_model = registry.components.get("chat_completion_pipeline", label="latest")
print(f"Base model: {base.id}")

# 3. What to train on. A file of conversations is uploaded when the job is submitted.
conversations = Input(type=AssetTypes.URI_FILE, path=str(quickstart.TRAIN))
held_out = Input(type=AssetTypes.URI_FILE, path=str(quickstart.TEST))


# 4. The job: one component with its inputs. Whatever is left out keeps its default;
#    docs/reference/recipe.md lists every input.
@pipeline(display_name="help desk")
def tune() -> dict:
    """Tune the base model on the help desk's conversations."""
    tuned = tune_chat_model(
        mlflow_model_path=base.id,
        train_file_path=conversations,
        test_file_path=held_out,
        apply_lora="true",
        lora_r=16,
        lora_alpha=32,
        learning_rate=0.002,
        lr_scheduler_type="cosine",
        max_steps=asked.steps,
        per_device_train_batch_size=8,
        precision="16",
    )
    return {
        "trained_model": tuned.outputs.mlflow_model_folder,
        "evaluation": tuned.outputs.evaluation_result,
    }


# 5. Submit it, and follow its log to the end. The job runs in the service: this script may be
#    stopped, and the service too; the job goes on.
job = workspace.jobs.create_or_update(tune(), experiment_name="help-desk")
workspace.jobs.stream(job.name)

# 6. What it learned: base and tuned model on conversations that neither has seen.
with tempfile.TemporaryDirectory() as folder:
    workspace.jobs.download(job.name, output_name="evaluation", download_path=folder)
    (report,) = Path(folder).rglob("evaluation.json")
    loss = json.loads(report.read_text(encoding="utf-8"))["assistant_loss"]
print(f"held-out loss: {loss['base']:.3f} before, {loss['tuned']:.3f} after (lower is better)")

# 7. A name and a version for the result. The version remembers the job it came from.
model = workspace.models.create_or_update(
    Model(
        name="help-desk",
        type=AssetTypes.MLFLOW_MODEL,
        path=f"azureml://jobs/{job.name}/outputs/trained_model",
    )
)

# 8. An endpoint is an address with keys; a deployment behind it is a model that answers.
endpoint_name = f"help-desk-{int(time.time())}"
endpoint = ManagedOnlineEndpoint(name=endpoint_name, auth_mode="key")
workspace.online_endpoints.begin_create_or_update(endpoint).result()
deployment = ManagedOnlineDeployment(
    name="first",
    endpoint_name=endpoint_name,
    model=model.id,
    instance_type="Standard_local",
    instance_count=1,
)
workspace.online_deployments.begin_create_or_update(deployment).result()
endpoint.traffic = {"first": 100}
workspace.online_endpoints.begin_create_or_update(endpoint).result()

# 9. Ask it. `input_string` is a conversation; `parameters` say how to answer.
question = [{"role": "user", "content": "Can I bring my dog on the ferry?"}]
parameters = {"max_new_tokens": 60, "do_sample": False}
with tempfile.NamedTemporaryFile("w", suffix=".json") as request:
    json.dump({"input_data": {"input_string": question, "parameters": parameters}}, request)
    request.flush()
    answer = workspace.online_endpoints.invoke(endpoint_name, request_file=request.name)
print("The model answers:", json.loads(answer)["output"])

# 10. Tidy up. The model version and the job stay.
workspace.online_endpoints.begin_delete(endpoint_name).wait()
