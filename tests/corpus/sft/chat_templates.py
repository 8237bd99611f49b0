"""Chat templates in the manner of published models, in our own words, each with the tokens that its models have.

`{% generation %}` marks what is trained: an assistant's words and the token that closes them. It is the reference for
the spans; without it a template is what a user has.
"""

import dataclasses
import re


@dataclasses.dataclass(frozen=True)
class Style:
    """A template, and the added tokens of its tokenizer."""

    reference: str
    special: tuple[str, ...] = ()
    ordinary: tuple[str, ...] = ()
    bos: str | None = None
    eos: str | None = None

    @property
    def source(self) -> str:
        """The template without its generation blocks."""
        return re.sub(r"\{% (end)?generation %\}", "", self.reference)


THINK = ("<think>", "</think>")
CALL = ("<tool_call>", "</tool_call>", "<tool_response>", "</tool_response>")
IM = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
PROMPT_CHATML = r"{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"

CHATML = (
    r"{% if messages[0].role != 'system' %}{{ '<|im_start|>system\nYou help.<|im_end|>\n' }}{% endif %}"
    r"{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' }}"
    r"{% if m.role == 'assistant' %}{% generation %}{{ m.content }}{{ '<|im_end|>' }}{% endgeneration %}"
    r"{% else %}{{ m.content + '<|im_end|>' }}{% endif %}{{ '\n' }}{% endfor %}" + PROMPT_CHATML
)
# The last message stays open.
CHATML_OPEN = (
    r"{% for m in messages %}{{ '<|im_start|>' ~ m.role ~ '\n' }}"
    r"{% if m.role == 'assistant' %}{% generation %}{{ m.content }}"
    r"{% if not loop.last %}{{ '<|im_end|>' }}{% endif %}{% endgeneration %}"
    r"{% else %}{{ m.content }}{% if not loop.last %}{{ '<|im_end|>' }}{% endif %}{% endif %}"
    r"{% if not loop.last %}{{ '\n' }}{% endif %}{% endfor %}"
)
# Macros, sets, joins, tests for empty texts.
CHATML_MACRO = (
    r"{% macro turn(role, text) %}{{ '<|im_start|>' ~ role ~ '\n' ~ text ~ '<|im_end|>' }}{% endmacro %}"
    r"{% set ns = namespace(first=true) %}"
    r"{% for m in messages %}{% set text = m['content'] if m['content'] is string and m['content'] else 'none' %}"
    r"{% if m.role == 'assistant' %}{{ '<|im_start|>' ~ m.role ~ '\n' }}"
    r"{% generation %}{{ [text, '<|im_end|>'] | join }}{% endgeneration %}{% else %}"
    r"{{ turn(m.role, text) }}{% endif %}"
    r"{{ '\n' }}{% set ns.first = false %}{% endfor %}" + PROMPT_CHATML
)
QWEN3 = (
    r"{% if tools %}{{ '<|im_start|>system\n' }}{% if messages[0].role == 'system' %}"
    r"{{ messages[0].content + '\n\n' }}"
    r"{% endif %}{{ 'Functions:\n<tools>' }}{% for tool in tools %}{{ '\n' + (tool | tojson) }}{% endfor %}"
    r"{{ '\n</tools>\nAnswer <tool_call>\n{...}\n</tool_call><|im_end|>\n' }}"
    r"{% elif messages[0].role == 'system' %}"
    r"{{ '<|im_start|>system\n' + messages[0].content + '<|im_end|>\n' }}{% endif %}"
    r"{% set ns = namespace(seek=true, last=messages|length - 1) %}"
    r"{% for m in messages[::-1] %}{% set i = messages|length - 1 - loop.index0 %}"
    r"{% if ns.seek and m.role == 'user' and not (m.content.startswith('<tool_response>')) %}"
    r"{% set ns.seek = false %}{% set ns.last = i %}{% endif %}{% endfor %}"
    r"{% for m in messages %}{% set content = m.content if m.content is string else '' %}"
    r"{% if m.role == 'user' or (m.role == 'system' and not loop.first) %}"
    r"{{ '<|im_start|>' + m.role + '\n' + content + '<|im_end|>\n' }}"
    r"{% elif m.role == 'assistant' %}{% set thought = '' %}"
    r"{% if m.reasoning_content is string %}{% set thought = m.reasoning_content %}"
    r"{% elif '</think>' in content %}"
    r"{% set thought = content.split('</think>')[0].rstrip('\n').split('<think>')[-1].lstrip('\n') %}"
    r"{% set content = content.split('</think>')[-1].lstrip('\n') %}{% endif %}"
    r"{{ '<|im_start|>assistant\n' }}"
    r"{% set whole = loop.index0 > ns.last and (loop.last or thought) %}"
    r"{% if whole and not thought.strip() %}{{ '<think>\n' + thought.strip('\n') + '\n</think>\n\n' }}{% endif %}"
    r"{% generation %}"
    r"{% if whole and thought.strip() %}{{ '<think>\n' + thought.strip('\n') + '\n</think>\n\n' }}{% endif %}"
    r"{{ content.lstrip('\n') if whole else content }}"
    r"{% for call in m.tool_calls or [] %}{% if (loop.first and content) or not loop.first %}{{ '\n' }}{% endif %}"
    r"{% if call.function %}{% set call = call.function %}{% endif %}"
    r"""{{ '<tool_call>\n{"name": "' + call.name + '", "arguments": ' }}"""
    r"{{ call.arguments if call.arguments is string else call.arguments | tojson }}{{ '}\n</tool_call>' }}{% endfor %}"
    r"{{ '<|im_end|>' }}{% endgeneration %}{{ '\n' }}"
    r"{% elif m.role == 'tool' %}{% if loop.first or messages[loop.index0 - 1].role != 'tool' %}"
    r"{{ '<|im_start|>user' }}{% endif %}{{ '\n<tool_response>\n' + content + '\n</tool_response>' }}"
    r"{% if loop.last or messages[loop.index0 + 1].role != 'tool' %}{{ '<|im_end|>\n' }}{% endif %}{% endif %}"
    r"{% endfor %}"
    r"{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}"
    r"{% if enable_thinking is defined and not enable_thinking %}{{ '<think>\n\n</think>\n\n' }}{% endif %}{% endif %}"
)
LLAMA3 = (
    r"{{ bos_token }}{% if not date_string is defined %}{% set date_string = strftime_now('%d %b %Y') %}{% endif %}"
    r"{% if messages[0].role == 'system' %}{% set system = messages[0].content | trim %}"
    r"{% set messages = messages[1:] %}"
    r"{% else %}{% set system = '' %}{% endif %}"
    r"{{ '<|start_header_id|>system<|end_header_id|>\n\nToday: ' + date_string + '\n\n' + system + '<|eot_id|>' }}"
    r"{% for m in messages %}{% if m.tool_calls %}"
    r"{% if m.tool_calls | length != 1 %}{{ raise_exception('one call at a time') }}{% endif %}"
    r"{% set call = m.tool_calls[0].function %}{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}"
    r"""{% generation %}{{ '{"name": "' + call.name + '", "parameters": ' }}{{ call.arguments | tojson }}{{ '}' }}"""
    r"{% if builtin is defined %}{{ '<|eom_id|>' }}{% else %}{{ '<|eot_id|>' }}{% endif %}{% endgeneration %}"
    r"{% elif m.role in ('tool', 'ipython') %}"
    r"{{ '<|start_header_id|>ipython<|end_header_id|>\n\n' + (m.content | tojson) + '<|eot_id|>' }}"
    r"{% elif m.role == 'assistant' %}{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}"
    r"{% generation %}{{ m.content | trim + '<|eot_id|>' }}{% endgeneration %}"
    r"{% else %}{{ '<|start_header_id|>' + m.role + '<|end_header_id|>\n\n' + m.content | trim + '<|eot_id|>' }}"
    r"{% endif %}{% endfor %}"
    r"{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}"
)
# What opens an answer ends every conversation.
LLAMA3_FIRST = (
    r"{% for m in messages %}{% if loop.first %}{{ bos_token }}{% endif %}"
    r"{{ '<|start_header_id|>' + m.role + '<|end_header_id|>\n\n' }}{% if m.role == 'assistant' %}"
    r"{% generation %}{{ m.content | trim + '<|eot_id|>' }}{% endgeneration %}"
    r"{% else %}{{ m.content | trim + '<|eot_id|>' }}{% endif %}{% endfor %}"
    r"{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}"
)
MISTRAL = (
    r"{% if messages[0].role == 'system' %}{% set system = messages[0].content + '\n\n' %}"
    r"{% set rest = messages[1:] %}"
    r"{% else %}{% set system = '' %}{% set rest = messages %}{% endif %}"
    r"{% set ns = namespace(count=0, last=-1) %}"
    r"{% for m in rest %}{% if m.role == 'user' %}{% set ns.last = loop.index0 %}{% endif %}"
    r"{% if m.role in ('user', 'assistant') and not m.tool_calls %}"
    r"{% if (m.role == 'user') != (ns.count % 2 == 0) %}{{ raise_exception('roles must alternate') }}{% endif %}"
    r"{% set ns.count = ns.count + 1 %}{% endif %}{% endfor %}{{ bos_token }}"
    r"{% for m in rest %}{% if m.role == 'user' %}"
    r"{% if loop.index0 == ns.last and tools %}"
    r"{{ '[AVAILABLE_TOOLS] ' + (tools | tojson) + '[/AVAILABLE_TOOLS]' }}{% endif %}"
    r"{% if loop.index0 == ns.last %}{{ '[INST] ' + system + m.content + '[/INST]' }}"
    r"{% else %}{{ '[INST] ' + m.content + '[/INST]' }}{% endif %}"
    r"{% elif m.tool_calls %}{% generation %}{{ '[TOOL_CALLS] [' }}{% for call in m.tool_calls %}"
    r"{% if call.id | length != 9 %}{{ raise_exception('an id has nine characters') }}{% endif %}"
    r"""{{ '{"name": "' + call.function.name + '", "arguments": ' }}{{ call.function.arguments | tojson }}"""
    r"""{{ ', "id": "' + call.id + '"}' }}{% if not loop.last %}{{ ', ' }}{% endif %}{% endfor %}"
    r"{{ ']' + eos_token }}"""
    r"{% endgeneration %}{% elif m.role == 'assistant' %}{{ ' ' }}"
    r"{% generation %}{{ m.content + eos_token }}{% endgeneration %}"
    r"""{% elif m.role == 'tool' %}{{ '[TOOL_RESULTS] {"content": ' + m.content + '}[/TOOL_RESULTS]' }}"""
    r"{% else %}{{ raise_exception('only user, assistant and tool') }}{% endif %}{% endfor %}"
)
LLAMA2 = (
    r"{% if messages[0].role == 'system' %}{% set system = '<<SYS>>\n' + messages[0].content + '\n<</SYS>>\n\n' %}"
    r"{% set rest = messages[1:] %}{% else %}{% set system = '' %}{% set rest = messages %}{% endif %}"
    r"{% for m in rest %}{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}"
    r"{{ raise_exception('alternate') }}{% endif %}"
    r"{% set content = system + m.content if loop.first else m.content %}"
    r"{% if m.role == 'user' %}{{ bos_token + '[INST] ' + content.strip() + ' [/INST]' }}"
    r"{% elif m.role == 'assistant' %}{{ ' ' }}{% generation %}{{ content.strip() + ' ' + eos_token }}"
    r"{% endgeneration %}{% endif %}{% endfor %}"
)
GEMMA = (
    r"{{ bos_token }}{% if messages[0].role == 'system' %}{{ raise_exception('no system') }}{% endif %}"
    r"{% for m in messages %}{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}"
    r"{{ raise_exception('alternate') }}{% endif %}"
    r"{% set role = 'model' if m.role == 'assistant' else m.role %}{{ '<start_of_turn>' + role + '\n' }}"
    r"{% if role == 'model' %}{% generation %}{{ m.content | trim + '<end_of_turn>' }}{% endgeneration %}"
    r"{% else %}{{ m.content | trim + '<end_of_turn>' }}{% endif %}{{ '\n' }}{% endfor %}"
    r"{% if add_generation_prompt %}{{ '<start_of_turn>model\n' }}{% endif %}"
)
USER, ASSISTANT, END = "<｜User｜>", "<｜Assistant｜>", "<｜end▁of▁sentence｜>"
R1_CALLS = (
    "<｜calls▁begin｜>",
    "<｜call▁begin｜>",
    "<｜sep｜>",
    "<｜call▁end｜>",
    "<｜calls▁end｜>",
    "<｜output▁end｜>",
)
R1 = (
    r"{{ bos_token }}{% for m in messages %}{% if m.role == 'system' %}{{ m.content }}{% endif %}{% endfor %}"
    r"{% for m in messages %}{% if m.role == 'user' %}{{ '<｜User｜>' + m.content }}"
    r"{% elif m.role == 'assistant' and m.tool_calls %}{{ '<｜Assistant｜>' }}{% generation %}"
    r"{{ m.content or '' }}{{ '<｜calls▁begin｜>' }}{% for call in m.tool_calls %}"
    r"{{ '<｜call▁begin｜>' + call.type + '<｜sep｜>' + call.function.name + '\n```json\n' }}"
    r"{{ call.function.arguments if call.function.arguments is string else call.function.arguments | tojson }}"
    r"{{ '\n```<｜call▁end｜>' }}{% endfor %}{{ '<｜calls▁end｜><｜end▁of▁sentence｜>' }}{% endgeneration %}"
    r"{% elif m.role == 'assistant' %}{% set content = m.content %}"
    r"{% if '</think>' in content %}{% set content = content.split('</think>')[-1] %}{% endif %}{{ '<｜Assistant｜>' }}"
    r"{% generation %}{{ content + '<｜end▁of▁sentence｜>' }}{% endgeneration %}"
    r"{% elif m.role == 'tool' %}{{ '<｜User｜>' + m.content + '<｜output▁end｜>' }}{% endif %}{% endfor %}"
    r"{% if add_generation_prompt %}{{ '<｜Assistant｜><think>\n' }}{% endif %}"
)
# An answer without a thought is opened by a closing tag alone.
V31 = (
    r"{{ bos_token }}{% for m in messages %}{% if m.role == 'system' %}{{ m.content }}"
    r"{% elif m.role == 'user' %}{{ '<｜User｜>' + m.content }}"
    r"{% elif m.role == 'assistant' %}{{ '<｜Assistant｜>' }}"
    r"{% if m.reasoning_content %}{% generation %}"
    r"{{ '<think>' + m.reasoning_content + '</think>' }}{{ m.content or '' }}"
    r"{{ '<｜end▁of▁sentence｜>' }}{% endgeneration %}{% else %}{{ '</think>' }}{% generation %}{{ m.content or '' }}"
    r"{{ '<｜end▁of▁sentence｜>' }}{% endgeneration %}{% endif %}{% endif %}{% endfor %}"
    r"{% if add_generation_prompt %}{{ '<｜Assistant｜></think>' }}{% endif %}"
)
PHI = (
    r"{% for m in messages %}{{ '<|' + m.role + '|>\n' }}"
    r"{% if m.role == 'assistant' %}{% generation %}{{ m.content + '<|end|>' }}{% endgeneration %}"
    r"{% else %}{{ m.content + '<|end|>' }}{% endif %}{{ '\n' }}{% endfor %}"
    r"{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% else %}{{ eos_token }}{% endif %}"
)
# The roles are plain text, the end is EOS.
ZEPHYR = (
    r"{% for m in messages %}{{ '<|' + m.role + '|>\n' }}"
    r"{% if m.role == 'assistant' %}{% generation %}{{ m.content + eos_token }}{% endgeneration %}"
    r"{% else %}{{ m.content + eos_token }}{% endif %}{{ '\n' }}{% endfor %}"
    r"{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% endif %}"
)
COMMAND = (
    r"{{ bos_token }}{% for m in messages %}"
    r"{% set role = {'system': 'SYSTEM', 'user': 'USER', 'assistant': 'CHATBOT'}[m.role] %}"
    r"{{ '<|START_OF_TURN_TOKEN|><|' + role + '_TOKEN|>' }}{% if role == 'CHATBOT' %}"
    r"{% generation %}{% if m.tool_plan %}{{ m.tool_plan }}{% endif %}"
    r"{{ m.content.strip() + '<|END_OF_TURN_TOKEN|>' }}"
    r"{% endgeneration %}{% else %}{{ m.content.strip() + '<|END_OF_TURN_TOKEN|>' }}{% endif %}{% endfor %}"
    r"{% if add_generation_prompt %}{{ '<|START_OF_TURN_TOKEN|><|CHATBOT_TOKEN|>' }}{% endif %}"
)
GRANITE = (
    r"{% if documents %}{{ '<|start_of_role|>documents<|end_of_role|>' }}{% for d in documents %}"
    r"{{ d.title + ': ' + d.text + '\n' }}{% endfor %}{{ '<|end_of_text|>\n' }}{% endif %}"
    r"{% if tools %}"
    r"{{ '<|start_of_role|>available_tools<|end_of_role|>' + (tools | tojson(indent=2)) + '<|end_of_text|>\n' }}"
    r"{% endif %}{% for m in messages %}{{ '<|start_of_role|>' + m.role + '<|end_of_role|>' }}"
    r"{% if m.role == 'assistant' %}{% generation %}{{ m.content or '' }}{% for call in m.tool_calls or [] %}"
    r"{{ '<|tool_call|>' + (call.function | tojson) }}{% endfor %}{{ '<|end_of_text|>' }}{% endgeneration %}"
    r"{% else %}{{ m.content + '<|end_of_text|>' }}{% endif %}{{ '\n' }}{% endfor %}"
    r"{% if add_generation_prompt %}{{ '<|start_of_role|>assistant<|end_of_role|>' }}{% endif %}"
)
# No token ends a message: the next role does.
GLM = (
    r"{{ '[gMASK]<sop>' }}{% for m in messages %}{{ '<|' + m.role + '|>' }}{% if m.role != 'assistant' %}"
    r"{{ '\n' }}{% endif %}"
    r"{% if m.role == 'assistant' %}{% set thought = m.reasoning_content or '' %}{% set content = m.content or '' %}"
    r"{% if '</think>' in content %}{% set thought = content.split('</think>')[0].split('<think>')[-1] %}"
    r"{% set content = content.split('</think>')[-1] %}{% endif %}"
    r"{% if thought.strip() %}{% generation %}{{ '\n<think>' + thought.strip() + '</think>\n' + content.strip() }}"
    r"{% endgeneration %}{% else %}{{ '\n<think></think>\n' }}{% generation %}"
    r"{{ content.strip() }}{% endgeneration %}{% endif %}"
    r"{% else %}{{ m.content }}{% endif %}{% endfor %}{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)
VICUNA = (
    r"{% for m in messages %}{% if m.role == 'system' %}{{ m.content + ' ' }}{% elif m.role == 'user' %}"
    r"{{ 'USER: ' + m.content + ' ' }}{% elif m.role == 'assistant' %}{{ 'ASSISTANT: ' }}{% generation %}"
    r"{{ m.content + eos_token }}"
    r"{% endgeneration %}{% endif %}{% endfor %}{% if add_generation_prompt %}{{ 'ASSISTANT:' }}{% endif %}"
)
ALPACA = (
    r"{% for m in messages %}{% if m.role == 'system' %}{{ m.content + '\n\n' }}{% elif m.role == 'user' %}"
    r"{{ '### Instruction:\n' + m.content + '\n\n' }}{% elif m.role == 'assistant' %}{{ '### Response:\n' }}"
    r"{% generation %}{{ m.content + eos_token }}{% endgeneration %}{{ '\n\n' }}{% endif %}{% endfor %}"
    r"{% if add_generation_prompt %}{{ '### Response:\n' }}{% endif %}"
)
# EOS closes the conversation, not the answers before.
LAST_EOS = (
    r"{% for m in messages %}{% if m.role == 'assistant' %}{{ 'Bot: ' }}{% generation %}{{ m.content }}"
    r"{% if loop.last %}{{ eos_token }}{% endif %}{% endgeneration %}{% else %}"
    r"{{ m.role + ': ' + m.content }}{% endif %}"
    r"{{ '' if loop.last else '\n' }}{% endfor %}"
)
# Channels: the words of an answer begin inside a header of their own.
HARMONY = (
    r"{% if tools %}{{ '<|start|>developer<|message|>' + (tools | tojson) + '<|end|>' }}{% endif %}"
    r"{% for m in messages %}{% if m.role == 'assistant' %}{{ '<|start|>assistant' }}{% generation %}"
    r"{% if m.thinking and loop.last %}"
    r"{{ '<|channel|>analysis<|message|>' + m.thinking + '<|end|><|start|>assistant' }}"
    r"{% endif %}{% if m.tool_calls %}{% set call = m.tool_calls[0].function %}"
    r"{{ '<|channel|>commentary to=' + call.name + '<|message|>' + (call.arguments | tojson) + '<|call|>' }}"
    r"{% elif loop.last %}{{ '<|channel|>final<|message|>' + m.content + '<|return|>' }}"
    r"{% else %}{{ '<|channel|>final<|message|>' + m.content + '<|end|>' }}{% endif %}{% endgeneration %}"
    r"{% else %}{{ '<|start|>' + m.role + '<|message|>' + m.content + '<|end|>' }}{% endif %}{% endfor %}"
    r"{% if add_generation_prompt %}{{ '<|start|>assistant' }}{% endif %}"
)

STYLES = {
    "chatml": Style(CHATML, special=IM, eos="<|im_end|>"),
    "chatml with ordinary marks": Style(CHATML, special=IM[:1], ordinary=IM[1:], eos="<|endoftext|>"),
    "chatml left open": Style(CHATML_OPEN, special=IM, eos="<|im_end|>"),
    "chatml by macros": Style(CHATML_MACRO, special=IM, eos="<|im_end|>"),
    "qwen3": Style(QWEN3, special=IM, ordinary=(*CALL, *THINK), eos="<|im_end|>"),
    "qwen3 with special thoughts": Style(QWEN3, special=(*IM, *THINK), ordinary=CALL, eos="<|im_end|>"),
    "llama3": Style(
        LLAMA3,
        special=("<|bot|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>", "<|eom_id|>"),
        bos="<|bot|>",
        eos="<|eot_id|>",
    ),
    "llama3 of the first days": Style(
        LLAMA3_FIRST,
        special=("<|bot|>", "<|end_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"),
        bos="<|bot|>",
        eos="<|end_of_text|>",
    ),
    "mistral": Style(
        MISTRAL,
        special=(
            *("<s>", "</s>", "[INST]", "[/INST]", "[AVAILABLE_TOOLS]", "[/AVAILABLE_TOOLS]"),
            *("[TOOL_CALLS]", "[TOOL_RESULTS]", "[/TOOL_RESULTS]"),
        ),
        bos="<s>",
        eos="</s>",
    ),
    "llama2": Style(LLAMA2, special=("<s>", "</s>"), bos="<s>", eos="</s>"),
    "gemma": Style(
        GEMMA,
        special=("<bos>", "<eos>", "<start_of_turn>", "<end_of_turn>"),
        ordinary=("\n", "\n\n", "  ", "    ", "<b>", "</b>"),
        bos="<bos>",
        eos="<eos>",
    ),
    "r1": Style(
        R1, special=("<｜begin｜>", END), ordinary=(USER, ASSISTANT, *R1_CALLS, *THINK), bos="<｜begin｜>", eos=END
    ),
    "r1 with special calls": Style(
        R1, special=("<｜begin｜>", END, USER, ASSISTANT, *R1_CALLS), ordinary=THINK, bos="<｜begin｜>", eos=END
    ),
    "v3.1": Style(V31, special=("<｜begin｜>", END), ordinary=(USER, ASSISTANT, *THINK), bos="<｜begin｜>", eos=END),
    "phi": Style(
        PHI,
        special=("<|endoftext|>", "<|system|>", "<|user|>", "<|assistant|>", "<|end|>"),
        eos="<|endoftext|>",
    ),
    "zephyr": Style(ZEPHYR, special=("<s>", "</s>"), bos="<s>", eos="</s>"),
    "command": Style(
        COMMAND,
        special=(
            *("<BOS>", "<|START_OF_TURN_TOKEN|>", "<|END_OF_TURN_TOKEN|>"),
            *("<|SYSTEM_TOKEN|>", "<|USER_TOKEN|>", "<|CHATBOT_TOKEN|>"),
        ),
        bos="<BOS>",
        eos="<|END_OF_TURN_TOKEN|>",
    ),
    "granite": Style(
        GRANITE,
        special=("<|end_of_text|>", "<|start_of_role|>", "<|end_of_role|>", "<|tool_call|>"),
        eos="<|end_of_text|>",
    ),
    "glm": Style(
        GLM,
        special=("[gMASK]", "<sop>", "<|system|>", "<|user|>", "<|assistant|>", "<|observation|>", "<|tool|>"),
        ordinary=THINK,
        eos="<|user|>",
    ),
    "vicuna": Style(VICUNA, special=("<s>", "</s>"), bos="<s>", eos="</s>"),
    "alpaca": Style(ALPACA, special=("<s>", "</s>"), bos="<s>", eos="</s>"),
    "eos at the end only": Style(LAST_EOS, special=("<s>", "</s>"), bos="<s>", eos="</s>"),
    "harmony": Style(
        HARMONY,
        special=("<|start|>", "<|end|>", "<|message|>", "<|channel|>", "<|return|>", "<|call|>"),
        eos="<|return|>",
    ),
}
