"""Hardware FLOPs and parameters against torch's own counter, on small random models of every known architecture."""

import pytest

from scaling.flops import (
    ModelShape,
    generation_hardware_flops,
    scoring_hardware_flops,
    training_hardware_flops,
)

torch = pytest.importorskip("torch", reason="needs torch: pip install 'rl-scaling[train]'")
transformers = pytest.importorskip("transformers", reason="needs transformers: pip install 'rl-scaling[train]'")
from torch.utils.flop_counter import FlopCounterMode  # noqa: E402

pytestmark = [
    pytest.mark.train,
    pytest.mark.filterwarnings("ignore"),  # torch and transformers warn about their own models
]

BATCH, PROMPT, COMPLETION, WINDOW = 2, 9, 7, 8
EXPERTS = {"num_experts": 6, "num_experts_per_tok": 2, "moe_intermediate_size": 24}
LATENT = {
    "q_lora_rank": 12,
    "kv_lora_rank": 16,
    "qk_rope_head_dim": 8,
    "qk_nope_head_dim": 16,
    "v_head_dim": 12,
    "n_routed_experts": 6,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 24,
    "first_k_dense_replace": 1,
    "num_key_value_heads": 4,
    "topk_group": 1,
}
CASES = {
    "llama": {},
    "mistral": {"sliding_window": WINDOW},
    "mixtral": {"num_local_experts": 6, "num_experts_per_tok": 2},
    "qwen2": {"use_sliding_window": True, "sliding_window": WINDOW, "max_window_layers": 1},
    "qwen3": {"head_dim": 24},
    "qwen2_moe": {**EXPERTS, "shared_expert_intermediate_size": 40, "decoder_sparse_step": 2},
    "qwen3_moe": {**EXPERTS, "mlp_only_layers": [0], "head_dim": 16},
    "gemma": {"head_dim": 24},
    "gemma2": {"head_dim": 24, "sliding_window": WINDOW},
    "gemma3_text": {"head_dim": 24, "sliding_window": WINDOW, "sliding_window_pattern": 2},
    "olmo": {},
    "olmo2": {},
    "olmo3": {"sliding_window": WINDOW},
    "olmoe": {"num_experts": 6, "num_experts_per_tok": 2},
    "phi": {},
    "phi3": {"sliding_window": WINDOW},
    "smollm3": {"use_sliding_window": True, "sliding_window": WINDOW, "no_rope_layer_interval": 2},
    "deepseek_v2": {**LATENT, "n_shared_experts": 1, "n_group": 1},
    "deepseek_v3": {**LATENT, "n_shared_experts": 2, "n_group": 2},
    "gpt_neox": {},
}
SIZES = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 56,
    "vocab_size": 43,
    "max_position_embeddings": 64,
    "bos_token_id": None,
    "eos_token_id": None,
    "pad_token_id": 0,
}


def build(architecture, tied):
    config = transformers.AutoConfig.for_model(
        architecture, **{**SIZES, **CASES[architecture], "tie_word_embeddings": tied}
    )
    torch.manual_seed(0)
    model = transformers.AutoModelForCausalLM.from_config(config, attn_implementation="eager", dtype=torch.float32)
    if hasattr(model, "set_experts_implementation"):
        model.set_experts_implementation("eager")  # torch counts no grouped products
    return model, ModelShape.from_config(config.to_dict())


def counted(work):
    with FlopCounterMode(display=False) as counter:
        work()
    return counter.get_total_flops()


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
@pytest.mark.parametrize("architecture", CASES)
def test_every_phase_equals_torch_flop_counter(architecture, tied):
    model, shape = build(architecture, tied)
    assert shape.params == sum(p.numel() for p in model.parameters())
    rectangle = {"batch": BATCH, "prompt_width": PROMPT, "completion_width": COMPLETION}
    prompts = torch.randint(1, 40, (BATCH, PROMPT))
    rows = torch.randint(1, 40, (BATCH, PROMPT + COMPLETION))

    def generate():
        model.generate(
            prompts,
            attention_mask=torch.ones_like(prompts),
            max_new_tokens=COMPLETION,
            min_new_tokens=COMPLETION,
            do_sample=True,
        )

    def score():
        with torch.no_grad():
            model(rows, use_cache=False, logits_to_keep=COMPLETION)

    def train():
        model(rows, use_cache=False, logits_to_keep=COMPLETION).logits.logsumexp(-1).sum().backward()

    model.eval()
    assert counted(generate) == pytest.approx(generation_hardware_flops(shape, **rectangle), rel=0.005)
    assert counted(score) == pytest.approx(scoring_hardware_flops(shape, **rectangle), rel=0.005)
    model.train()
    assert counted(train) == pytest.approx(training_hardware_flops(shape, **rectangle), rel=0.005)
    model.gradient_checkpointing_enable({"use_reentrant": False})
    assert counted(train) == pytest.approx(
        training_hardware_flops(shape, **rectangle, gradient_checkpointing=True), rel=0.005
    )


@pytest.mark.parametrize("architecture", ["llama", "qwen2", "gemma3_text", "gpt_neox", "deepseek_v3", "mixtral"])
@pytest.mark.parametrize("spare", [0, 5], ids=["as wide as needed", "wider"])
def test_a_static_cache_is_attended_over_its_whole_width(architecture, spare):
    model, shape = build(architecture, True)
    width = PROMPT + COMPLETION - 1 + spare
    prompts = torch.randint(1, 40, (BATCH, PROMPT))
    model.eval()
    got = counted(
        lambda: model.generate(
            prompts, attention_mask=torch.ones_like(prompts), max_new_tokens=COMPLETION, min_new_tokens=COMPLETION,
            do_sample=True, cache_implementation="static", max_cache_len=width,
        )
    )  # fmt: skip
    rectangle = {"batch": BATCH, "prompt_width": PROMPT, "completion_width": COMPLETION}
    static = generation_hardware_flops(shape, **rectangle, static_cache=width)
    assert got == pytest.approx(static, rel=0.005)
    assert static > generation_hardware_flops(shape, **rectangle)


@pytest.mark.parametrize("architecture", ["llama", "qwen2", "gpt_neox", "deepseek_v3"])
def test_frozen_matrices_as_with_lora(architecture):
    """LoRA without its adapters: every matrix frozen, the loss differentiable through the first block's norm only."""
    model, shape = build(architecture, False)
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    block = next(m for name, m in model.named_modules() if name.endswith("layers.0"))
    for name, parameter in block.named_parameters():
        # adapters of the first block need the gradient of these outputs, not of their input; a bias stands in for them
        if name.endswith(("q_proj.bias", "k_proj.bias", "v_proj.bias", "query_key_value.bias", "dense_h_to_4h.bias")):
            parameter.requires_grad_(True)
    if not any(p.requires_grad for p in model.parameters()):
        for name, module in block.named_modules():
            if name.endswith(("q_proj", "k_proj", "v_proj", "q_a_proj", "kv_a_proj_with_mqa")):
                module.bias = torch.nn.Parameter(torch.zeros(module.out_features))
    rows = torch.randint(1, 40, (BATCH, PROMPT + COMPLETION))
    model.train()
    got = counted(lambda: model(rows, use_cache=False, logits_to_keep=COMPLETION).logits.logsumexp(-1).sum().backward())
    want = training_hardware_flops(shape, batch=BATCH, prompt_width=PROMPT, completion_width=COMPLETION, lora=True)
    assert got == pytest.approx(want, rel=0.005)


class Adapted(torch.nn.Module):
    """A frozen matrix with a trainable low-rank adapter beside it."""

    def __init__(self, frozen, rank):
        super().__init__()
        self.frozen = frozen
        self.down = torch.nn.Linear(frozen.in_features, rank, bias=False)
        self.up = torch.nn.Linear(rank, frozen.out_features, bias=False)

    def forward(self, x):
        return self.frozen(x) + self.up(self.down(x))


@pytest.mark.parametrize("architecture", ["llama", "qwen2", "olmo2"])
def test_lora_with_its_adapters(architecture):
    model, shape = build(architecture, True)
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    for block in model.model.layers:
        for name, module in list(block.named_modules()):
            if isinstance(module, torch.nn.Linear):
                parent = block.get_submodule(name.rpartition(".")[0])
                setattr(parent, name.rpartition(".")[2], Adapted(module, 4))
    rows = torch.randint(1, 40, (BATCH, PROMPT + COMPLETION))
    model.train()
    got = counted(lambda: model(rows, use_cache=False, logits_to_keep=COMPLETION).logits.logsumexp(-1).sum().backward())
    want = training_hardware_flops(
        shape, batch=BATCH, prompt_width=PROMPT, completion_width=COMPLETION, lora=True, lora_rank=4
    )
    assert got == pytest.approx(want, rel=0.005)


def test_fused_head_of_trl_is_four_passes():
    """TRL's chunked log-probabilities keep no logits: one product forward, three in the backward pass.

    Torch's counter does not know the in-place products (``addmm_``) of the two gradients unless told.
    """
    trl_utils = pytest.importorskip("trl.trainer.utils", reason="needs trl: pip install 'rl-scaling[train]'")
    model, shape = build("llama", False)
    trl_utils.add_fused_lm_head(model)
    rows = torch.randint(1, 40, (BATCH, PROMPT + COMPLETION))

    def in_place(acc, a, b, out_shape=None, **_):
        return 2 * a[0] * a[1] * b[1]

    model.train()
    with FlopCounterMode(display=False, custom_mapping={torch.ops.aten.addmm_: in_place}) as counter:
        model(input_ids=rows, attention_mask=torch.ones_like(rows), labels=rows, fused_lm_head=True).loss.backward()
    want = training_hardware_flops(
        shape,
        batch=BATCH,
        prompt_width=PROMPT,
        completion_width=COMPLETION,
        scored_positions=PROMPT + COMPLETION - 1,
        fused_head=True,
    )
    assert counter.get_total_flops() == pytest.approx(want, rel=0.005)
