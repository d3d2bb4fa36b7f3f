"""The rules of an engine in one version: the keys of `planner/data/lmdeploy.toml` and what each may say.

The file explains every key and word. The annotations below are its schema, read by `planner.lmdeploy.table`; they have
to be objects when this module is imported, so annotations are not postponed here. Named tuples and not dataclasses: a
start makes them in a tenth of the time.
"""

from typing import NamedTuple

from planner.kinds import EngineName
from planner.lmdeploy.words import (
    AttentionWorkspace,
    BatchBuffers,
    ChatBatch,
    ChatSession,
    ForwardTokens,
    FreeSampled,
    FusedSilu,
    HiddenTokens,
    Int4Dtype,
    IntermediatePadding,
    KvAllocator,
    KvHeadsInBlock,
    KvReplication,
    ModelFormat,
    RatioRange,
    RemoteCode,
    Subject,
    Takes,
    WarmUp,
)


class TurbomindRules(NamedTuple):
    """What decides TurboMind's memory in one version. A key with a value here is of a feature that came later."""

    # kv_budget
    free_sampled: FreeSampled
    kv_allocator: KvAllocator
    block_tokens: int
    default_cache_max_entry_count: float
    ratio_range: RatioRange
    shortens_session_len: bool
    # kv_layout
    quant_policies: tuple[int, ...]
    kv_replication: KvReplication
    kv_heads_in_block: KvHeadsInBlock
    # workspace
    gemm_workspace_bytes: int
    cublas_workspace_bytes: int
    attention_workspace: AttentionWorkspace
    forward_tokens: ForwardTokens
    hidden_tokens: HiddenTokens
    warm_up: WarmUp
    default_session_len_extra: int
    batch_buffers: BatchBuffers
    fused_silu: FusedSilu
    # sharding
    embedding_sharded: bool
    lm_head_sharded: bool
    vocab_multiple: int
    intermediate_padding: IntermediatePadding
    tp_power_of_two: bool
    # support
    head_dims: tuple[int, ...]
    head_dims_sm80: tuple[int, ...]
    kv_int4_not_for: tuple[int, ...]
    formats: tuple[ModelFormat, ...]
    int4_group_sizes: tuple[int, ...]
    min_sm_w4a16: int
    int4_dtype: Int4Dtype
    # of features that came later
    slab_fill: float = 0.0
    slab_max_bytes: int = 0
    dense_group: int = 1
    min_sm_fp8: int = 0
    fp8_native_sm: int = 0
    int4_sm90_group: int = 0
    compressed_group_sizes: tuple[int, ...] = ()
    min_sm_mxfp4: int = 0


class KvPolicy(NamedTuple):
    """The PyTorch engine's KV cache under a `quant_policy`: bytes of a token and kv head.

    `k` and `v` are multiples of the head dims of keys and values, the extras are for scales and zeros.
    """

    quant_policy: int
    k: float
    v: float
    k_extra: int
    v_extra: int


class PytorchRules(NamedTuple):
    """What decides the PyTorch engine's memory in one version."""

    # kv_budget
    block_tokens: int
    default_cache_max_entry_count: float
    ratio_range: RatioRange
    vocab_element_bytes: int
    min_blocks_hard: int
    reserved_blocks: int
    tensor_alignment_bytes: int
    # kv_layout
    policies: tuple[KvPolicy, ...]
    # weights
    formats: tuple[ModelFormat, ...]
    awq_dtype: Int4Dtype
    awq_moe: bool
    # cuda_graphs
    powers_of_two_up_to: int
    step: int
    block_table_element_bytes: int


class Architecture(NamedTuple):
    """A model class of config.json: the versions that take it, and those that run its vision tower themselves."""

    name: str
    versions: tuple[str, ...]
    native_vision: str = ""


class Architectures(NamedTuple):
    """Those that TurboMind takes."""

    list: tuple[Architecture, ...]


class PytorchArchitectures(NamedTuple):
    """Those that the PyTorch engine takes, in the versions that are known."""

    versions: str
    list: tuple[str, ...]


class DefaultBatch(NamedTuple):
    """`max_batch_size` where none is given: the first key found in the lower-case name of GPU 0, else `default`."""

    by_name: dict[str, int]
    default: int


class ChatRules(NamedTuple):
    """What `lmdeploy chat` runs with."""

    max_batch_size: ChatBatch
    session_len: ChatSession


class TrustRemoteCode(NamedTuple):
    """Whether a model's own code needs leave."""

    behaviour: RemoteCode


class CliOption(NamedTuple):
    """An option of `lmdeploy serve api_server` and `lmdeploy chat`: the versions that know it, and its values."""

    name: str
    api_server: tuple[str, ...]
    chat: tuple[str, ...]
    takes: Takes = Takes.ONE


class Choices(NamedTuple):
    """The values that an option takes in one version."""

    values: tuple[str, ...]


class Cli(NamedTuple):
    """What is the same in every version."""

    api_server_host: str
    flexible_spelling: str
    api_server_port: int


class Trace(NamedTuple):
    """A trace of every allocation of a start (`planner/data/evidence.toml`)."""

    product: str
    compute_capability: int
    lmdeploy: str
    engine: EngineName
    subjects: tuple[Subject, ...]


class Said(NamedTuple):
    """What is said of a subject; without `elsewhere` it is the same on every compute capability."""

    what: str = ""
    remark: str = ""
    elsewhere: str = ""
