"""All settings, read once. The only reader of the environment.

Variables are named `ANCHORAGE_<GROUP>__<FIELD>`, for example `ANCHORAGE_INDEX__MILVUS_URI`. Secrets come only from the
environment or from files. Every value is frozen; a part receives its group, never the whole.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, SecretStr
from pydantic_settings import BaseSettings, SettingsConfigDict

OnCold = Literal["extractive", "wait", "reject"]
SearchMode = Literal["hybrid", "dense", "text"]


class _Group(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class ApiSettings(_Group):
    """The HTTP edge."""

    host: str = Field("127.0.0.1", description="Address the HTTP proxy binds to.")
    port: int = Field(8000, ge=0, le=65535, description="Port of the HTTP proxy; 0 takes a free one.")
    replicas: int = Field(1, ge=1, description="Api replicas. They hold no state.")
    max_replicas: int = Field(1, ge=1, description="Replicas under load; at least `replicas`.")
    cpus: float = Field(
        0.1, gt=0, description="CPUs that Ray reserves for a replica: little on a laptop, which has two."
    )
    keys: tuple[SecretStr, ...] = Field((), description="API keys; none means that everybody may ask.")
    keys_file: Path | None = Field(None, description="File with one API key a line; added to `keys`.")
    max_body_bytes: int = Field(4 * 1024 * 1024, gt=0, description="Largest accepted request body, bytes.")
    max_concurrent: int = Field(256, gt=0, description="Requests that one Api replica works on at a time.")
    max_queued: int = Field(256, ge=0, description="Requests that may wait beyond those; more get 429 at once.")
    deadline_s: float = Field(300.0, gt=0, description="Longest time a request may take, seconds.")
    default_max_tokens: int = Field(512, gt=0, description="max_tokens of a chat that names none.")
    uploads: bool = Field(True, description="Whether documents can be uploaded and deleted over HTTP.")
    max_upload_bytes: int = Field(64 * 1024 * 1024, gt=0, description="Largest body of an upload, bytes.")
    max_upload_documents: int = Field(1000, gt=0, description="Documents in one upload.")
    max_uploads: int = Field(4, gt=0, description="Uploads that one Api replica receives at a time; 64 more wait.")
    upload_wait_s: float = Field(30.0, gt=0, description="How long `?wait=true` waits for the outcome, seconds.")


class IndexSettings(_Group):
    """Where vectors and the catalog are."""

    milvus_uri: str = Field("http://127.0.0.1:19530", description="Milvus or Milvus Lite server.")
    milvus_token: SecretStr | None = Field(None, description="user:password or API key of Milvus.")
    milvus_timeout_s: float = Field(10.0, gt=0, description="Time limit of one Milvus call, seconds.")
    catalog_url: str = Field("sqlite:///.anchorage/catalog.db", description="SQLAlchemy URL of the catalog.")
    tenant: str = Field("default", min_length=1, max_length=64, description="Who owns the collections.")
    default_collection: str = Field("default", description="Collection of a request that names none.")


class EmbedderSettings(_Group):
    """The embedding model."""

    model: str = Field("all-MiniLM-L6-v2", description="Packaged name, Hugging Face id or local folder.")
    precision: Literal["auto", "float32", "bfloat16"] = Field(
        "auto", description="auto: bfloat16 where the CPU has instructions for it (cosine to float32 >= 0.9999)."
    )
    threads: int = Field(0, ge=0, description="CPU threads; 0 leaves it to PyTorch.")
    batch_tokens: int = Field(
        0, ge=0, description="Tokens per forward pass in bulk work; 0: 512 on a CPU, 16,384 on a GPU."
    )
    replicas: int = Field(1, ge=1, description="Embedder replicas in Ray Serve.")
    max_replicas: int = Field(1, ge=1, description="Replicas under load; at least `replicas`.")
    cpus: float = Field(0.1, gt=0, description="CPUs that Ray reserves for a replica.")
    max_models: int = Field(
        3, ge=2, description="Embedding models that a replica holds at most: this one, and those of other collections."
    )
    max_batch_size: int = Field(32, gt=0, description="Concurrent queries joined into one forward pass.")
    batch_wait_s: float = Field(0.002, ge=0, description="How long a query waits for company, seconds.")


class RetrievalSettings(_Group):
    """Question to passages."""

    mode: SearchMode = Field("hybrid", description="dense: vectors; text: BM25; hybrid: both, fused by rank.")
    top_k: int = Field(6, gt=0, le=100, description="Passages of a chat that names no top_k.")
    search_top_k: int = Field(10, gt=0, le=100, description="Results of a search that names no top_k.")
    max_top_k: int = Field(100, gt=0, description="Largest top_k a caller may ask for.")
    min_score: float = Field(0.2, ge=-1, le=1, description="Passages of a chat below this score are not used.")
    rrf_k: int = Field(
        10,
        gt=0,
        description="Constant of reciprocal rank fusion. Cormack et al. (SIGIR 2009) use 60; with 10, a passage that "
        "one of both searches ranks first stays near the top.",
    )
    per_document: int = Field(2, gt=0, description="Passages a document gives to a chat before others get their turn.")
    search_per_document: int = Field(1, gt=0, description="The same for /v1/search.")
    join_neighbours: bool = Field(True, description="Join retrieved chunks that touch in their document (chat only).")


class LlmSettings(_Group):
    """The engine that writes answers. Without `model` there is only the extractive one."""

    model: str | None = Field(None, description="Hugging Face id or local folder; unset: extractive answers only.")
    name: str | None = Field(None, description="Name clients use; default: the id, or the folder's name.")
    device: Literal["auto", "cpu", "gpu"] = Field("auto", description="auto: gpu where Ray sees one.")
    engine_args: dict[str, Any] = Field(default_factory=dict, description="Passed to vLLM unchanged.")
    env: dict[str, str] = Field(default_factory=dict, description="Environment of the engine's processes.")
    min_replicas: int = Field(1, ge=0, description="Replicas that are always there; 0 lets the LLM sleep.")
    max_replicas: int = Field(1, ge=1, description="Replicas under load.")
    max_ongoing_requests: int = Field(256, gt=0, description="Requests one engine replica takes at a time.")
    on_cold: OnCold = Field("extractive", description="What a caller gets while no replica is ready.")
    cold_start_s: float = Field(120.0, gt=0, description="First estimate of a cold start, for Retry-After.")
    guard_url: str | None = Field(
        None, description="`anchorage guard`, which tells a node that is awaited from an image that is pulled."
    )
    ready_folder: Path | None = Field(
        None, description="Where a replica leaves a file while its engine serves: its pod's readiness probe looks here."
    )


class ScalingSettings(_Group):
    """How replicas follow questions: `serving/deployments/scaling.py` has the rule."""

    llm_requests: float = Field(
        32.0, gt=0, description="Requests in flight that one Llm replica is to carry; `anchorage plan` proposes it."
    )
    ttft_target_s: float = Field(
        2.0,
        gt=0,
        description="First tokens are to come within this (p95, in the engine): less is asked of a replica else.",
    )
    api_requests: float = Field(64.0, gt=0, description="Requests in flight that one Api replica is to carry.")
    busy: float = Field(0.7, gt=0, le=1, description="Part of its time that an Embedder or Api replica is to work.")
    report_s: float = Field(1.0, gt=0, description="How often replicas and handles say what they have to do, seconds.")
    look_back_s: float = Field(4.0, gt=0, description="Load is averaged over this; more than `report_s`.")
    up_delay_s: float = Field(2.0, ge=0, description="So long it must be too much before replicas are added.")
    down_delay_s: float = Field(300.0, ge=0, description="So long fewer must do before replicas are taken away.")
    to_zero_delay_s: float = Field(300.0, ge=0, description="So long nobody must ask before the last Llm replica goes.")
    cpu_plane: bool = Field(
        False, description="Keep all but the Llm on nodes that have the Ray resource `cpu_plane`, as the manifests' do."
    )


class WebSettings(_Group):
    """Documents from web sites."""

    user_agent: str = Field("anchorage-ingest/1.0", min_length=1, description="What sites and robots.txt know us by.")
    timeout_s: float = Field(30.0, gt=0, description="Longest wait for a connection or for more bytes, seconds.")
    total_s: float = Field(300.0, gt=0, description="Longest time for one document with all attempts, seconds.")
    attempts: int = Field(4, ge=1, le=20, description="How often a request that failed for the moment is made.")
    backoff_s: float = Field(0.5, gt=0, description="First wait between attempts; each further one is twice as long.")
    per_host: int = Field(4, gt=0, description="Requests to one host at a time, by one process.")
    max_redirects: int = Field(10, ge=0, description="Redirects followed from one address.")
    respect_robots: bool = Field(True, description="Leave out what robots.txt forbids, in sitemaps and folders.")
    allow_private: bool = Field(
        False, description="Follow sitemaps, lists and redirects to private, loopback and link-local addresses, too."
    )
    allowed_hosts: tuple[str, ...] = Field(
        (), description="Hosts that they may lead to whatever their address; *.example.com means all below it."
    )


class ClusterSettings(_Group):
    """Ingestion on a Ray cluster: `anchorage ingest --distributed`."""

    max_workers: int = Field(
        8, ge=1, description="Processes that parse, and as many that embed, at most; they come and go with the work."
    )
    parse_cpus: float = Field(1.0, ge=0, description="CPUs that Ray reserves for one that parses.")
    embed_cpus: float = Field(1.0, ge=0, description="CPUs that Ray reserves for one that embeds.")
    embed_gpus: Annotated[float, Field(ge=0)] | Literal["auto"] = Field(
        "auto",
        description="GPUs of one that embeds; auto: 1 where the cluster has any now, else 0. Where GPU nodes start "
        "from zero, name a number: it is what makes them start.",
    )


class IngestionSettings(_Group):
    """Documents to chunks."""

    chunk_tokens: int = Field(200, ge=16, description="Tokens of a chunk's text, by the embedding model's tokenizer.")
    max_file_bytes: int = Field(64 * 1024 * 1024, gt=0, description="Larger files are reported as failed.")
    web: WebSettings = WebSettings()
    cluster: ClusterSettings = ClusterSettings()
    stores: dict[str, dict[str, Any]] = Field(
        default_factory=dict,
        repr=False,
        description='Options by kind of store: {"s3": {"endpoint": URL, "skip_signature": true}}. What is not said '
        "here comes from the usual environment of each cloud.",
    )
    write_batch: int = Field(512, gt=0, description="Chunks per upsert.")
    read_concurrency: int = Field(8, gt=0, description="Documents read from their sources at a time.")
    patience_s: float = Field(300.0, ge=0, description="How long a run waits for a part that is away, seconds.")
    verify_samples: int = Field(20, ge=0, description="Chunks that a run finds again before it publishes.")
    keep_generations: int = Field(3, ge=1, description="Published generations that can be gone back to.")
    parse_workers: int = Field(0, ge=0, description="Processes that parse files; 0: one per CPU, at most 4.")
    parse_timeout_s: float = Field(60.0, gt=0, description="CPU seconds that parsing one file may take.")
    parse_memory_bytes: int = Field(
        1024**3, ge=64 * 1024**2, description="A file whose parsing needs more memory than this fails."
    )
    max_text_characters: int = Field(20_000_000, gt=0, description="A file with more text than this fails.")


class TelemetrySettings(_Group):
    """Logs and metrics."""

    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = Field("INFO", description="Least level that is logged.")
    log_json: bool = Field(False, description="Logs as JSON lines, for a cluster.")


class Settings(BaseSettings):
    """Everything, in groups."""

    model_config = SettingsConfigDict(
        env_prefix="ANCHORAGE_", env_nested_delimiter="__", frozen=True, extra="forbid", env_ignore_empty=True
    )

    api: ApiSettings = ApiSettings()
    index: IndexSettings = IndexSettings()
    embedder: EmbedderSettings = EmbedderSettings()
    retrieval: RetrievalSettings = RetrievalSettings()
    llm: LlmSettings = LlmSettings()
    scaling: ScalingSettings = ScalingSettings()
    ingestion: IngestionSettings = IngestionSettings()
    telemetry: TelemetrySettings = TelemetrySettings()
