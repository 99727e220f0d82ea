"""Package definition; Dataflow workers install the same package through --setup_file=./setup.py."""

import pathlib
import re

from setuptools import find_packages, setup

HERE = pathlib.Path(__file__).parent
VERSION = re.search(r'__version__ = "(.+)"', (HERE / "seqrec_tf" / "__init__.py").read_text()).group(1)

setup(
    name="seqrec_tf",
    version=VERSION,
    description="Sequential recommendation on TensorFlow: Beam, Keras 3, TF Serving.",
    long_description=(HERE / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    python_requires=">=3.11,<3.14",
    packages=find_packages(include=["seqrec_tf*", "beam_jobs*", "serving*"]),
    package_data={
        "seqrec_tf": ["py.typed"],
        "seqrec_tf.report": ["*.html", "*.css", "*.js"],
        "serving": ["README.md", "deploy/*", "deploy/grafana/*"],
    },
    install_requires=[
        "tensorflow>=2.21,<2.22",
        "keras>=3.15,<3.16",
        # The bar of `seqrec train`; Keras brings it along.
        "rich>=13",
        "tensorflow-recommenders>=0.7.7",
        "tensorflow-hub>=0.16.1",
        "apache-beam[tfrecord]>=2.77,<2.78",  # its local runner is started by a private interface
        # What `seqrec prepare` works with: columns, lines of JSON, checksums and compression of records.
        "numpy>=2",
        "pyarrow>=16",
        "orjson>=3.9",
        "crc32c>=2.7",
        "isal>=1.7",
        # Writes the event files of a run; TensorFlow 2.21 no longer brings it.
        "tensorboard>=2.20",
        # PredictionLog, the record type of TF Serving's warm-up requests.
        "tensorflow-serving-api>=2.21,<2.22",
        # The HTTP layer of `seqrec serve`; httptools is its parser, uvloop its event loop where there is one.
        "uvicorn>=0.40,<1",
        "httptools>=0.6.3",
        "uvloop>=0.20; sys_platform != 'win32'",
        "prometheus-client>=0.20",
        # gRPC beside REST; tensorflow-serving-api needs it too.
        "grpcio>=1.60",
    ],
    extras_require={
        "gcp": ["apache-beam[gcp]"],
        # CUDA and cuDNN for NVIDIA GPUs on Linux.
        "gpu": ["tensorflow[and-cuda]>=2.21,<2.22"],
        # The tokenizer ops that many TF Hub text encoders need.
        "text": ["tensorflow-text>=2.21,<2.22"],
        # Draws the options of `seqrec tune`; its journal file makes a search resumable without a database.
        # scikit-learn tells how much each option matters.
        "tune": ["optuna>=4.2", "scikit-learn>=1.5"],
        # Pinned, as what they accept changes with their versions.
        # httpx asks the server in the tests of its contract; werkzeug answers badly in those of the client.
        "test": [
            # Writes the tables that are to be read as those of a warehouse.
            "pandas>=2.2",
            "pytest>=8",
            "pytest-xdist>=3",
            "ruff==0.17.6",
            "mypy==2.4.1",
            "playwright>=1.50",
            "httpx>=0.27",
            "werkzeug>=3",
            # What is in serving/deploy is checked by the schemas of compose (in check-jsonschema) and Kubernetes,
            # and by the grammar of Prometheus' queries.
            "PyYAML>=6",
            "jsonschema>=4.23",
            "check-jsonschema>=0.33",
            "kubernetes-validate>=1.31",
            "promql-parser>=0.5",
            "optuna>=4.2",
            "scikit-learn>=1.5",
        ],
    },
    entry_points={"console_scripts": ["seqrec=seqrec_tf.cli:main"]},
)
