"""The words of `planner/data/lmdeploy.toml`: what a rule may say, and what of it other code has to know.

The file explains each. Where a rule decides, it is taken apart here or in the engine so that the type checker names
every place that a new word has to enter.
"""

from __future__ import annotations

from planner.kinds import Word, assert_never


class FreeSampled(Word):
    """When TurboMind asks how much memory is free."""

    AFTER_WEIGHTS = "after_weights"
    AFTER_WEIGHTS_AND_WORKSPACES = "after_weights_and_workspaces"
    AFTER_MODEL = "after_model"
    AFTER_WEIGHTS_AND_GEMM_WORKSPACE = "after_weights_and_gemm_workspace"

    @property
    def behind_workspace(self) -> bool:
        """Whether the GEMM workspace is there by then."""
        match self:
            case FreeSampled.AFTER_WEIGHTS:
                return False
            case (
                FreeSampled.AFTER_WEIGHTS_AND_WORKSPACES
                | FreeSampled.AFTER_MODEL
                | FreeSampled.AFTER_WEIGHTS_AND_GEMM_WORKSPACE
            ):
                return True
            case _:
                assert_never(self)

    @property
    def behind_buffers(self) -> bool:
        """Whether the buffers of a batch are there by then."""
        match self:
            case FreeSampled.AFTER_MODEL:
                return True
            case (
                FreeSampled.AFTER_WEIGHTS
                | FreeSampled.AFTER_WEIGHTS_AND_WORKSPACES
                | FreeSampled.AFTER_WEIGHTS_AND_GEMM_WORKSPACE
            ):
                return False
            case _:
                assert_never(self)


class KvAllocator(Word):
    """How the KV cache is allocated."""

    BLOCKS = "blocks"
    SLABS = "slabs"


class RatioRange(Word):
    """What `cache_max_entry_count` may be."""

    SHARE = "share"
    SHARE_OR_BLOCKS = "share_or_blocks"


class KvReplication(Word):
    """What happens to key-value heads that tensor parallelism does not divide."""

    NONE = "none"
    TP_MULTIPLE = "tp_multiple"
    ROUND_UP = "round_up"


class KvHeadsInBlock(Word):
    """The heads that a rank's block is made for."""

    LOCAL = "local"
    ALL = "all"

    def ranks(self, tp: int) -> int:
        """Over how many ranks a block's heads are cut."""
        match self:
            case KvHeadsInBlock.LOCAL:
                return tp
            case KvHeadsInBlock.ALL:
                return 1
            case _:
                assert_never(self)


class AttentionWorkspace(Word):
    """What split-k attention keeps beside its partial outputs."""

    M_L_O = "m_l_o"
    ML_O = "ml_o"

    @property
    def state_bytes(self) -> int:
        """Bytes of it for a token and head, beside the partial output."""
        match self:
            case AttentionWorkspace.M_L_O:
                return 12
            case AttentionWorkspace.ML_O:
                return 8
            case _:
                assert_never(self)


class ForwardTokens(Word):
    """Tokens of the longest step."""

    SUM = "sum"
    SUM_CEIL_TP = "sum_ceil_tp"

    def multiple(self, tp: int) -> int:
        """What their number is a multiple of under tensor parallelism."""
        match self:
            case ForwardTokens.SUM:
                return 1
            case ForwardTokens.SUM_CEIL_TP:
                return tp
            case _:
                assert_never(self)


class HiddenTokens(Word):
    """Tokens that the persistent hidden states hold."""

    SESSION_LEN = "session_len"
    FORWARD_TOKENS = "forward_tokens"

    def of(self, *, session_tokens: int, step_tokens: int) -> int:
        """Their number."""
        match self:
            case HiddenTokens.SESSION_LEN:
                return session_tokens
            case HiddenTokens.FORWARD_TOKENS:
                return step_tokens
            case _:
                assert_never(self)


class WarmUp(Word):
    """What runs through the model before the first request."""

    NONE = "none"
    INT4_ONLY = "int4_only"
    ALL = "all"

    def runs(self, *, quantized: bool) -> bool:
        """Whether it runs for a model whose weights are quantized, or are not."""
        match self:
            case WarmUp.NONE:
                return False
            case WarmUp.INT4_ONLY:
                return quantized
            case WarmUp.ALL:
                return True
            case _:
                assert_never(self)


class BatchBuffers(Word):
    """What lies beside the KV cache for good."""

    DECODER = "decoder"
    SYMMETRIC = "symmetric"
    PHASES = "phases"


class FusedSilu(Word):
    """Which MLPs apply their activation while they multiply."""

    INT4_OR_FP8_WEIGHTS = "int4_or_fp8_weights"
    BF16_SM90 = "bf16_sm90"
    QUANTIZED = "quantized"


class IntermediatePadding(Word):
    """How an MLP's intermediate size is padded."""

    NONE = "none"
    GROUP = "group"
    GROUP_TP_ONLY = "group_tp_only"
    PLAN = "plan"


class Int4Dtype(Word):
    """Activations of 4-bit models."""

    FLOAT16 = "float16"
    MODEL = "model"


class ModelFormat(Word):
    """Formats of a checkpoint, as ``--model-format`` and ``quant_method`` call them."""

    HF = "hf"
    LLAMA = "llama"
    AWQ = "awq"
    GPTQ = "gptq"
    COMPRESSED_TENSORS = "compressed-tensors"
    FP8 = "fp8"
    MXFP4 = "mxfp4"
    SMOOTH_QUANT = "smooth_quant"


class RemoteCode(Word):
    """Whether code that ships with a model runs."""

    ALWAYS = "always"
    ALWAYS_NO_OPTION = "always_no_option"
    OPT_IN = "opt_in"


class ChatBatch(Word):
    """Where `lmdeploy chat` has its batch from."""

    ONE = "one"
    OPTION = "option"
    DEFAULT = "default"


class ChatSession(Word):
    """Where `lmdeploy chat` has the length of its session from."""

    OPTION = "option"
    MODEL_MAX = "model_max"


class Takes(Word):
    """How many words of a command line follow an option."""

    NONE = "none"
    ONE = "one"
    MANY = "many"


class Subject(Word):
    """What was traced (`planner/data/evidence.toml`)."""

    POOLS = "pools"
    FORWARD = "forward"
    PACKING = "packing"
    MOVING = "moving"
    PACKED_COPY = "packed_copy"
    FOLDING = "folding"
    STATES = "states"
