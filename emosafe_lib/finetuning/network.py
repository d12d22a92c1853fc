"""The network that is trained: a backbone, LoRA's adapters beside its linear layers, and a head."""

from contextlib import contextmanager

from transformers import set_seed

from emosafe_lib.finetuning.objective import labels_of
from emosafe_lib.finetuning.plan import Plan
from emosafe_lib.finetuning.probe_head import begin_head
from emosafe_lib.finetuning.probes import Features
from emosafe_lib.models.backbone import attending, quiet
from emosafe_lib.models.classifier import load_classifier
from emosafe_lib.models.precision import mixes_precision, use_threads
from emosafe_lib.study.errors import ModelError
from emosafe_lib.study.parameters import ModelParams


def add_lora(network, model: ModelParams):
    """Freeze the backbone and put low-rank adapters beside its linear layers; the head trains in full.

    Raises
    ------
    ModelError : a target module matches no layer
    """
    from peft import LoraConfig, TaskType, get_peft_model

    lora = model.training.lora
    wanted = [lora.target_modules] if isinstance(lora.target_modules, str) else lora.target_modules
    names = [name for name, _ in network.named_modules()]
    lost = [part for part in wanted if part != "all-linear" and not any(n.split(".")[-1] == part for n in names)]
    if lost:
        raise ModelError(model.name, f"lora.target_modules {lost[0]!r} matches no layer", "use all-linear, or q_proj")
    config = LoraConfig(
        task_type=TaskType.SEQ_CLS,
        r=lora.rank,
        lora_alpha=lora.alpha,
        lora_dropout=lora.dropout,
        target_modules=wanted[0] if wanted == ["all-linear"] else wanted,
    )
    return get_peft_model(network, config)


@quiet()
def build_network(plan: Plan, features: Features | None = None):
    """The network to train and its tokenizer; adapters, and a fresh head, are drawn from the plan's seed, what trains is
    float32. `features` spare a head that begins with a probe the reading of its rows.
    """
    set_seed(plan.seed)
    use_threads(plan.model)
    network, tokenizer = load_classifier(plan.model, labels_of(plan.task))
    if plan.model.training.head == "probe":
        begin_head(network, tokenizer, plan, features)
    if plan.model.training.method == "lora":
        network = add_lora(network, plan.model)
    for parameter in trainable(network):
        parameter.data = parameter.data.float()
    return network, tokenizer


def trainable(network) -> list:
    """The parameters that training moves."""
    return [parameter for parameter in network.parameters() if parameter.requires_grad]


@contextmanager
def fast_steps(network, model: ModelParams):
    """While the block trains with bfloat16 products on a CPU: attention as plain products, since PyTorch's fused attention
    takes several times as long backwards there, and no float32 copies of what adapters read, which autocast would only
    round again.
    """
    if not mixes_precision(model):
        yield
        return
    from peft.helpers import disable_input_dtype_casting

    with attending(network, "eager"), disable_input_dtype_casting(network):
        yield
