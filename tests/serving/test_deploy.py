"""What runs around TF Serving: its own configuration, compose, Prometheus, Grafana, Kubernetes."""

import importlib.util
import inspect
import json
import pathlib
import re

import pytest
import yaml
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory, text_format, wrappers_pb2
from tensorflow_serving.config import model_server_config_pb2

import serving
from seqrec_tf.exporting.golden import WARM_UP_BATCH_SIZES
from serving.client import Client
from serving.metrics import Metrics

FOLDER = pathlib.Path(serving.__file__).parent / "deploy"
COMPOSE = yaml.safe_load((FOLDER / "docker-compose.yml").read_text())
OBJECTS = {thing["kind"]: thing for thing in yaml.safe_load_all((FOLDER / "kubernetes.yaml").read_text())}
POD = OBJECTS["Deployment"]["spec"]["template"]
DASHBOARD = json.loads((FOLDER / "grafana" / "serving.json").read_text())


INT64, WRAPPED, BOOL, STRING = "int64", f".{wrappers_pb2.Int64Value.DESCRIPTOR.full_name}", "bool", "string"
# Messages of TF Serving 2.20 that tensorflow-serving-api leaves out: each field and its type, by its number.
MESSAGES = {
    "BatchingParameters": {
        1: ("max_batch_size", WRAPPED),
        2: ("batch_timeout_micros", WRAPPED),
        3: ("max_enqueued_batches", WRAPPED),
        4: ("num_batch_threads", WRAPPED),
        6: ("allowed_batch_sizes", INT64),
        7: ("pad_variable_length_inputs", BOOL),
    },
    "PrometheusConfig": {1: ("enable", BOOL), 2: ("path", STRING)},
    "MonitoringConfig": {1: ("prometheus_config", ".PrometheusConfig")},
}


def message(name):
    """An empty message of `MESSAGES`."""
    file = descriptor_pb2.FileDescriptorProto(name=f"{name}.proto", syntax="proto3")
    file.dependency.append(wrappers_pb2.DESCRIPTOR.name)
    for one, fields in MESSAGES.items():
        added = file.message_type.add(name=one)
        for number, (field, kind) in fields.items():
            is_list = field == "allowed_batch_sizes"
            added.field.add(name=field, number=number, label=3 if is_list else 1)
            if kind.startswith("."):
                added.field[-1].type, added.field[-1].type_name = descriptor_pb2.FieldDescriptorProto.TYPE_MESSAGE, kind
            else:
                added.field[-1].type = descriptor_pb2.FieldDescriptorProto.Type.Value(f"TYPE_{kind.upper()}")
    pool = descriptor_pool.DescriptorPool()
    pool.AddSerializedFile(wrappers_pb2.DESCRIPTOR.serialized_pb)
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName(name))()


def parsed(name, empty):
    """A file of the folder, as the message that TF Serving reads it as."""
    return text_format.Parse((FOLDER / name).read_text(), empty)


# TF Serving's own


def test_the_model_configuration_of_tf_serving_is_valid():
    config = parsed("models.config", model_server_config_pb2.ModelServerConfig())
    (model,) = config.model_config_list.config
    assert model.model_platform == "tensorflow"
    assert model.base_path == f"/models/{model.name}"


def test_the_canary_of_the_comments_is_valid():
    lines = re.findall(r"^#   (.*\{.*)", (FOLDER / "models.config").read_text(), re.MULTILINE)
    model = text_format.Parse("\n".join(lines), model_server_config_pb2.ModelConfig())
    assert set(model.version_labels.values()) == set(model.model_version_policy.specific.versions) == {42, 43}


def test_batches_are_of_the_sizes_that_export_warms_up():
    batching = parsed("batching.config", message("BatchingParameters"))
    sizes = tuple(batching.allowed_batch_sizes)
    assert sizes == WARM_UP_BATCH_SIZES
    assert sizes[-1] == batching.max_batch_size.value
    assert inspect.signature(Client.recommend).parameters["batch_size"].default <= sizes[-1]
    assert not batching.pad_variable_length_inputs
    (container,) = POD["spec"]["containers"]
    assert batching.num_batch_threads.value == int(container["resources"]["requests"]["cpu"])


def test_metrics_are_where_prometheus_looks():
    monitoring = parsed("monitoring.config", message("MonitoringConfig"))
    assert monitoring.prometheus_config.enable
    (job,) = yaml.safe_load((FOLDER / "prometheus.yml").read_text())["scrape_configs"]
    annotations = POD["metadata"]["annotations"]
    assert {monitoring.prometheus_config.path, job["metrics_path"]} == {annotations["prometheus.io/path"]}
    assert job["static_configs"] == [{"targets": ["serving:8501"]}]


# Docker


def test_the_compose_file_has_the_form_of_the_compose_specification():
    jsonschema = pytest.importorskip("jsonschema")
    package = importlib.util.find_spec("check_jsonschema")
    if package is None:
        pytest.skip("check-jsonschema, which has the schema, is not installed")
    schemas = pathlib.Path(package.origin).parent / "builtin_schemas" / "vendor"
    schema = json.loads((schemas / "compose-spec.json").read_text())
    validator = jsonschema.validators.validator_for(schema)(schema)
    validator.validate(COMPOSE)
    assert not validator.is_valid({"services": {"serving": {"imago": "x"}}})


def test_files_that_containers_mount_are_there():
    mounted = [volume for service in COMPOSE["services"].values() for volume in service["volumes"]]
    paths = [volume.split(":")[0] for volume in mounted if volume.startswith(".")]
    assert len(paths) > 1
    assert [path for path in paths if not (FOLDER / path).exists()] == []
    assert {volume.split(":")[0] for volume in mounted if volume[0] not in ".$"} == set(COMPOSE["volumes"])


def flags(words):
    """The names of the flags, without their values."""
    return {word.split("=")[0] for word in words}


def test_compose_and_kubernetes_start_the_same_server():
    service, (container,) = COMPOSE["services"]["serving"], POD["spec"]["containers"]
    assert service["image"] == container["image"]
    of_pod = {"--tensorflow_intra_op_parallelism", "--tensorflow_inter_op_parallelism", "--rest_api_num_threads"}
    assert flags(container["args"]) - of_pod == flags(service["command"])
    for word in [*service["command"], *container["args"]]:
        if "=/config/" in word:
            assert (FOLDER / word.split("/config/")[1]).is_file()


# Kubernetes


@pytest.mark.parametrize("kind", OBJECTS)
def test_what_kubernetes_is_given_has_the_form_of_its_schema(kind):
    kubernetes_validate = pytest.importorskip("kubernetes_validate")
    kubernetes_validate.validate(OBJECTS[kind], "1.31", strict=True)


def test_kustomize_has_all_that_the_pod_mounts():
    kustomization = yaml.safe_load((FOLDER / "kustomization.yaml").read_text())
    (generated,) = kustomization["configMapGenerator"]
    assert [name for name in [*kustomization["resources"], *generated["files"]] if not (FOLDER / name).is_file()] == []
    volumes = {volume["name"]: volume for volume in POD["spec"]["volumes"]}
    assert volumes["config"]["configMap"]["name"] == generated["name"]
    claim = OBJECTS["PersistentVolumeClaim"]["metadata"]["name"]
    assert volumes["models"]["persistentVolumeClaim"]["claimName"] == claim
    (container,) = POD["spec"]["containers"]
    assert {mount["name"] for mount in container["volumeMounts"]} == set(volumes)


def test_service_budget_and_autoscaler_mean_the_pods():
    labels = POD["metadata"]["labels"]
    assert OBJECTS["Deployment"]["spec"]["selector"] == {"matchLabels": labels}
    assert OBJECTS["PodDisruptionBudget"]["spec"]["selector"] == {"matchLabels": labels}
    assert OBJECTS["Service"]["spec"]["selector"] == labels
    deployment = {key: OBJECTS["Deployment"][key] for key in ("apiVersion", "kind")} | {"name": "seqrec-serving"}
    assert OBJECTS["HorizontalPodAutoscaler"]["spec"]["scaleTargetRef"] == deployment
    assert "replicas" not in OBJECTS["Deployment"]["spec"]  # or each `kubectl apply` would undo what it has scaled
    (container,) = POD["spec"]["containers"]
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    assert {port["targetPort"]: port["port"] for port in OBJECTS["Service"]["spec"]["ports"]} == ports
    stop = int(container["lifecycle"]["preStop"]["exec"]["command"][1])
    assert stop < POD["spec"]["terminationGracePeriodSeconds"]


# Grafana


def queries():
    """All queries of the dashboard, with its variables filled in."""
    found = [target["expr"] for panel in DASHBOARD["panels"] for target in panel["targets"]]
    return [query.replace("$__rate_interval", "5m").replace("$model", ".*") for query in found]


def test_the_dashboard_asks_for_metrics_and_labels_that_the_server_has():
    metrics = Metrics()
    metrics.observe_request("shop", "predict", "REST", "OK", 100.0)
    metrics.observe_run("shop", 100.0)
    metrics.observe_wait(100.0)
    served = {}
    for name, labels in re.findall(r"^(:tensorflow\S*?)\{(.*)\} ", metrics.page().decode(), re.MULTILINE):
        served.setdefault(name, set()).update(re.findall(r"(\w+)=", labels))
    asked = set()
    for query in queries():
        by = set(re.findall(r"\w+", " ".join(re.findall(r"by \((.*?)\)", query))))
        for name, labels in re.findall(r"(:[\w:]+)(?:\{(.*?)\})?", query):
            assert by | set(re.findall(r'(\w+)!?=~?"', labels)) <= served[name], query
            asked.add(name)
    assert len(asked) == 4


def test_the_queries_of_the_dashboard_are_promql():
    promql_parser = pytest.importorskip("promql_parser")
    for query in queries():
        promql_parser.parse(query)
    with pytest.raises(ValueError, match="unclosed left parenthesis"):
        promql_parser.parse("sum(rate(x[5m])")


def test_the_dashboard_finds_its_source_and_grafana_the_dashboard():
    (source,) = yaml.safe_load((FOLDER / "grafana" / "datasource.yml").read_text())["datasources"]
    assert source["url"] == "http://prometheus:9090"
    assert {"serving", "prometheus", "grafana"} == set(COMPOSE["services"])
    (provider,) = yaml.safe_load((FOLDER / "grafana" / "dashboards.yml").read_text())["providers"]
    mounted = dict(volume.split(":")[:2] for volume in COMPOSE["services"]["grafana"]["volumes"])
    assert mounted["./grafana/serving.json"] == f"{provider['options']['path']}/serving.json"
    assert all(panel["datasource"]["uid"] == "${datasource}" for panel in DASHBOARD["panels"])
    ids = [panel["id"] for panel in DASHBOARD["panels"]]
    assert len(set(ids)) == len(ids) == 6
