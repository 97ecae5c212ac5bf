"""Writes templates/templates.json: small chat templates, one construct each, and what Python makes of them.

Run: TZ=UTC python tests/references/templates.py
Written with: python 3.11, transformers 4.57.1, jinja2 3.1.6.

A case that Python renders has `expected`; one that it refuses has `error`, the words of the exception. Every template
is rendered as `apply_chat_template(tokenize=False)` does, with the conversation and the special tokens below.
"""

import json
from pathlib import Path

from transformers.utils.chat_template_utils import _compile_jinja_template

HERE = Path(__file__).resolve().parent

MESSAGES = [
    {"role": "system", "content": " Be kind.\n"},
    {"role": "user", "content": "One & <two> 'three' \"four\"?"},
    {"role": "assistant", "content": "<think>\nhm\n</think>\n\nÉt 日本 👍"},
    {"role": "user", "content": "Tab\tand\nline"},
]
SPECIALS = {"bos_token": "<s>", "eos_token": "</s>"}

# Expressions, printed between brackets.
EXPRESSIONS = r"""
messages[0].content.strip()
messages[0]['content'] | trim
messages | length
messages[1:] | length
messages[-1]['role']
messages[:-1][-1].role
messages[::-1] | map(attribute='role') | join(',')
messages[::2] | map(attribute='role') | list
'abcdef'[::-1]
'abcdef'[-3:-1]
'abcdef'[1::2]
messages[0:2]
messages[9:]
messages | selectattr('role', 'equalto', 'user') | list | length
messages | selectattr('role', '==', 'user') | map(attribute='content') | first
messages | rejectattr('role', 'eq', 'user') | map(attribute='role') | list | join('|')
messages | map(attribute='content') | map('length') | list
messages | map(attribute='role') | unique | list
messages | map(attribute='role') | map('upper') | join(' ')
messages | selectattr('tool_calls', 'defined') | list
messages | selectattr('tool_calls') | list | length
messages | last
messages | first | tojson
messages[1] | tojson(indent=4)
messages[1].content | tojson
messages[2].content | tojson(ensure_ascii=True)
{'b': 1, 'a': [1, 2.5, true, none]} | tojson(sort_keys=True)
{'b': 1, 'a': [1, 2]} | tojson(separators=(',', ':'))
{'b': 1, 'a': [1, 2]} | tojson(indent=2, separators=(',', ': '))
{'a': {}, 'b': [], 'c': [{}]} | tojson(indent=2)
"\u007f\u2028\x01\"\\/" | tojson
1.0 | tojson
1e20 | tojson
1.5e-7
1e16
123456789.0
1/3
7 / 2
8 / 2
7 // 2
-7 // 2
-7 % 3
7.5 % 2
2 ** 10
2 ** 0.5
10 - 3 - 2
'ab' * 3
[0] * 3
'a' ~ 1 ~ none ~ true ~ 1.0
'a' + 'b'
'a' 'b'
[1, 2] + [3]
(1, 2)
(1,)
()
[1, 'a', "it's", none, true, 1.5]
{'a': 1, 'b': 'x'}
{'a': 1}.items() | list
{'b': 1, 'a': 2} | dictsort
{'b': 1, 'a': 2} | dictsort(by='value')
{'b': 1, 'a': 2} | items | list
{'a': 1}.get('b', 'none')
{'a': 1}.get('b')
{'a': 1}.keys() | list
{'a': 1}.values() | list
{'a': 1} | length
dict(a=1, b=2)
'a' in {'a': 1}
'ell' in 'hello'
2 in [1, 2]
'x' not in 'abc'
'hello world' | title
"they're bill's" | title
'hello world'.title()
'hELLO' | capitalize
'hELLO wORLD'.capitalize()
'a-b c' | upper
'ÀB' | lower
'aXbX' | replace('X', '-')
'aXbX'.replace('X', '-', 1)
'aXbX' | replace('X', '-', 1)
' a b  c '.split()
'a,b,,c'.split(',')
'a,b,c'.split(',', 1)
'a,b,c'.rsplit(',', 1)
'abc'.partition('b')
'abc'.rpartition('z')
'a\nb\r\nc'.splitlines()
'xxaxx'.strip('x')
'xxaxx'.lstrip('x')
'xxaxx'.rstrip('x')
'prefix-a'.removeprefix('prefix-')
'a.txt'.removesuffix('.txt')
'\x1c a\u00a0\u200b'.strip() | length
'abc'.startswith('ab')
'abc'.startswith(('x', 'a'))
'abc'.endswith('bc')
'abcb'.find('b')
'abcb'.rfind('b')
'abcb'.index('b')
'abcb'.count('b')
'ab'.upper() + 'AB'.lower()
'aB'.swapcase()
'7'.zfill(3)
'7'.rjust(3, '.')
'7'.ljust(3) + '|'
'7'.center(5) + '|'
'ab'.isalpha()
'12'.isdigit()
'x'.join(['a', 'b'])
'{} and {}'.format('a', 2)
'{0}-{1}-{0}'.format('a', 'b')
'{name}'.format(name='n')
'{:.2f}|{:>5}|{:05d}'.format(1.234, 'a', 42)
'%s is %d' % ('a', 3)
'%.1f' % 2.25
'%s' % 'one'
'%05d' % 42
'%s-%s' | format('a', 'b')
'42' | int
'x' | int
'x' | int(7)
3.9 | int
'1.5' | float
2 | string
true | string
none | string
'' | default('d')
'' | default('d', true)
nothing | default('d')
nothing
nothing is defined
nothing is undefined
nothing.attribute is defined
messages[0].nothing is defined
messages[0].nothing.more is defined
messages[0].nothing or 'else'
messages[0]['nothing'] is none
none is none
tools is none
tools is not none
tools is defined
not tools
tools is iterable
tools is mapping
'a' is string
'a' is iterable
'a' is sequence
'a' is mapping
[1] is iterable
[1] is sequence
{'a': 1} is sequence
{'a': 1} is iterable
{'a': 1} is mapping
1 is number
1.0 is number
true is number
1 is integer
1.0 is integer
1.0 is float
true is integer
true is boolean
1 is boolean
true is true
1 is true
false is false
3 is odd
4 is even
9 is divisibleby 3
1 is eq 1
1 is ne(2)
'b' is in ['a', 'b']
'lower' is lower
'a' is sameas 'a'
messages is sequence
messages[0] is mapping
strftime_now is defined
raise_exception is callable
enable_thinking is defined and enable_thinking is false
(enable_thinking | default(true)) == true
1 if true else 2
1 if false
'yes' if messages[0].role == 'system' else 'no'
1 < 2 < 3
1 == 1.0
'1' == 1
true == 1
not (1 == 2 and true)
1 and 2
0 or 'x'
[] or {}
range(3) | list
range(1, 8, 3) | list
range(3, 0, -1) | list
[3, 1, 2] | sort
[3, 1, 2] | sort(reverse=true)
['b', 'A', 'c'] | sort
[3, 1, 2] | max
[3, 1, 2] | min
[1, 2, 3] | sum
[1, 2, 3] | first
[] | first
[] | last
[1, 2, 3] | reverse | list
'abc' | reverse
'abc' | list
'abc' | first
'abc' | length
[1, none, 0, 'a'] | select | list
[1, 2, 3, 4] | select('odd') | list
[1, 2, 3, 4] | reject('odd') | list
[1, 2, 3, 4] | select('>', 2) | list
['a', 'b'] | map('replace', 'a', 'x') | list
['1', '2'] | map('int') | sum
[[1, 2], [3]] | map('first') | list
[1, 2, 3, 4, 5] | batch(2) | list
[1, 2, 3] | slice(2) | list
[{'a': 1}, {'b': 2}] | map(attribute='a', default=0) | list
[{'k': 'x', 'v': 1}, {'k': 'y', 'v': 2}] | groupby('k') | list | length
[1.23456, 2.5] | map('round', 2) | list
2.5 | round
2.675 | round(2)
-3 | abs
'a b' | urlencode
'<a & b>' | safe
'<a & b>' | escape
'<a>' | e
'a\nb' | indent(2)
'a\nb' | indent(2, true)
'one two three' | wordcount
'one two three four' | truncate(9)
'abc' | center(7)
1000000 | filesizeformat
['a', 'b'] | join
['a', 1, none] | join(', ')
messages | map(attribute='role') | join(', ')
namespace(a=1).a
loop is defined
'\\d \t \x41 \u00e9 \/'
"double 'single'"
'a' < 'b'
[1, 2] == [1, 2]
(1, 2) == [1, 2]
bos_token + 'x' + eos_token
unk_token
true
True
None
none
false
True and not False
0x1f
1_000
1e3
9007199254740993
12345678901234567890 + 1
-1 | abs
(messages | length) % 2 == 1
messages[0].content.strip().split('\n')[0].rstrip('.')
messages[2].content.split('</think>')[-1].lstrip('\n')
messages[2].content.split('<think>')[1].split('</think>')[0].strip('\n')
('</think>' in messages[2].content) and (not false)
messages[0].items() | list | length
messages[0].keys() | join(',')
messages[0]['role'] ~ '\n' ~ messages[0]['content']
messages | tojson
messages | list | string | length
messages | string
cycler('a', 'b').next()
joiner(',')() ~ '.'
[1, 2, 3][-1]
[1, 2, 3][5] is defined
{'a': {'b': 1}}.a.b
{'a': {'b': 1}}['a']['b']
{1: 'x'}[1]
{'items': 5}['items']
'a'.upper is defined
'é'.encode is defined
[1, 2].index(2)
[1, 2, 2].count(2)
'a;b'.split(';') | map('trim') | list
'abc' | attr('upper') is defined
'x' if nothing else 'y'
none or 'z'
'%c' % 'a'
'%x' % 255
'%5.2f|' % 3.14159
'%-5s|' % 'ab'
'100%%' % ()
messages[0].content[:3]
messages[0].content[-1] == '\n'
messages[0].content | length
messages | count
[1, [2, [3]]] | string
1 == true
none == false
'a' * 0
'abc' is not string
[] is iterable and [] | length == 0
3 | string | length
(3 | string) + 'x'
'3' + 3 | string
""".strip("\n").split("\n")

# Whole templates.
TEMPLATES = {
    "loop": "{% for m in messages %}{{ loop.index }}/{{ loop.length }} {{ loop.first }} {{ loop.last }} {{ loop.index0 }} {{ loop.revindex }} {{ loop.revindex0 }} {{ m.role }}{{ ',' if not loop.last }}{% endfor %}",
    "neighbours": "{% for m in messages %}{{ loop.previtem.role if loop.previtem is defined else '-' }}>{{ m.role }}>{{ loop.nextitem.role | default('-') }} {% endfor %}",
    "loop_if": "{% for m in messages if m.role == 'user' %}{{ loop.index }}{{ loop.last }}{% endfor %}",
    "loop_else": "{% for m in [] %}x{% else %}none{% endfor %}",
    "loop_break": "{% for m in messages %}{% if loop.index == 3 %}{% break %}{% endif %}{% if m.role == 'system' %}{% continue %}{% endif %}{{ m.role }}{% endfor %}",
    "loop_cycle": "{% for m in messages %}{{ loop.cycle('a', 'b') }}{{ loop.changed(m.role) }}{{ loop.depth }}{% endfor %}",
    "loop_pairs": "{% for k, v in messages[0].items() %}{{ k }}={{ v }};{% endfor %}{% for k, v in messages[0] | dictsort %}{{ k }};{% endfor %}{% for k in messages[0] %}{{ k }}{% endfor %}",
    "loop_string": "{% for c in 'héy' %}{{ c }}.{% endfor %}",
    "loop_recursive": "{% for n in [[1, [2]], 3] recursive %}{% if n is iterable %}({{ loop(n) }}){% else %}{{ n }}{% endif %}{% endfor %}",
    "loop_nested": "{% for a in [1, 2] %}{% set outer = loop %}{% for b in 'xy' %}{{ outer.index }}{{ b }}{{ loop.index }} {% endfor %}{% endfor %}",
    "loop_scope": "{% set n = 0 %}{% for m in messages %}{% set n = n + 1 %}{{ n }}{% endfor %}{{ n }}",
    "loop_none": "{% for t in tools %}{{ t }}{% endfor %}.",
    "loop_undefined": "{% for t in nothing %}{{ t }}{% endfor %}.",
    "namespace": "{% set ns = namespace(found=false, n=0) %}{% for m in messages %}{% if m.role == 'user' %}{% set ns.found = true %}{% set ns.n = ns.n + 1 %}{% endif %}{% endfor %}{{ ns.found }} {{ ns.n }}",
    "set_block": "{% set x %}a{{ bos_token }}\n{% endset %}[{{ x }}]{% set y | upper %}abc{% endset %}{{ y }}",
    "set_many": "{% set a, b = 1, 'two' %}{{ a }}{{ b }}",
    "with": "{% with x = 1, y = 2 %}{{ x + y }}{% endwith %}{{ x is defined }}",
    "filter_block": "{% filter upper %}abc {{ bos_token }}{% endfilter %}",
    "macro": "{% macro turn(role, text='none', mark='|') %}<{{ role }}{{ mark }}{{ text }}>{% endmacro %}{% for m in messages %}{{ turn(m.role, m.content | trim) }}{% endfor %}{{ turn('x', mark='!') }}",
    "macro_caller": "{% macro box() %}[{{ caller() }}]{% endmacro %}{% call box() %}in{% endcall %}",
    "macro_recursion": "{% macro count(n) %}{{ n }}{% if n > 0 %} {{ count(n - 1) }}{% endif %}{% endmacro %}{{ count(3) }}",
    "macro_strip": "{%- macro text(m) -%}\n    {%- if m.content is string -%}\n        {{- m.content -}}\n    {%- endif -%}\n{%- endmacro -%}\n{%- for m in messages -%}\n    {{- text(m) -}}\n{%- endfor -%}",
    "macro_globals": "{% set sep = '+' %}{% macro f(x) %}{{ x }}{{ sep }}{{ bos_token }}{% endmacro %}{{ f(1) }}{% set r = f(2) %}{{ r | length }}",
    "raise": "{% if messages[0].role == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}",
    "raise_later": "{% for m in messages %}{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}{% endif %}{% endfor %}",
    "raise_in_ternary": "{{ raise_exception('No.') if messages else 'fine' }}",
    "generation": "{% for m in messages %}{% if m.role == 'assistant' %}{% generation %}{{ m.content }}{{ eos_token }}{% endgeneration %}{% else %}{{ m.content }}{% endif %}\n{% endfor %}",
    "generation_scope": "{%- for m in messages -%}{%- generation -%}\n {%- set x = m.role -%} {{- x -}} \n{%- endgeneration -%}\n{%- endfor -%}",
    "trim_blocks": "{% for m in messages %}\n    {% if m.role == 'user' %}\n  {{ m.role }}\n    {% endif %}\n{% endfor %}\n",
    "no_lstrip": "  {%+ if true %}a{% endif %}  \n  {% if true +%}\nb{% endif %}\n",
    "dashes": "a  {{- 'b' -}}  c {%- if true -%} d {%- endif -%}  e",
    "comments": "a{# one #}b\n  {# two\n lines #}\nc {#- three -#} d",
    "raw": "{% raw %}{{ x }}{% endraw %}|{% raw %}\n{% endraw %}|{% raw -%}\n x {%- endraw %}|{%- raw %} y\n{% endraw %}\nz",
    "raw_newline": "<|im_start|>{{ messages[1].role }}{% raw %}\n{% endraw %}{{ messages[1].content }}<|im_end|>{% raw %}\n{% endraw %}.",
    "newlines": "a\r\nb\rc{{ 'x\r\ny' }}\n\n",
    "trailing": "a\n",
    "trailing_two": "a\n\n",
    "braces": "{ {% if true %}{ { } }}{% endif %} %} }} {{ '{{' }} {{ '%}' }}",
    "strings": "{{ 'it\\'s' }} {{ \"a\\nb\" }} {{ 'a' ~ \"}}\" }}{% if '%}' == '%}' %}y{% endif %}",
    "multiline": "{{ messages[0]\n   ['content'] | trim\n   | upper }}{%\n  if true\n%}x{% endif %}",
    "line_statement": "# for x in y\n## comment\n{{ 1 }}",
    "elif": "{% for m in messages %}{% if m.role == 'user' %}U{% elif m.role == 'system' %}S{% else %}?{% endif %}{% endfor %}",
    "inline_if": "{{ 'a' if false else 'b' if false else 'c' }}{{ ('a' if true) ~ 'x' }}{{ 'z' if false }}",
    "undefined_print": "[{{ nothing }}][{{ messages[0].nothing }}][{{ nothing | default }}]",
    "undefined_attribute": "{{ nothing.more }}",
    "undefined_call": "{{ nothing() }}",
    "undefined_add": "{{ nothing + 'x' }}",
    "undefined_concat": "{{ nothing ~ 'x' }}",
    "undefined_compare": "{{ nothing == 'x' }}{{ nothing == none }}{{ nothing is none }}",
    "undefined_length": "{{ nothing | length }}",
    "undefined_json": "{{ nothing | tojson }}",
    "undefined_in": "{{ 'a' in nothing }}",
    "none_attribute": "{{ tools.name }}|{{ tools[0] }}|{{ tools.name is defined }}",
    "none_length": "{{ tools | length }}",
    "none_add": "{{ 'x' + tools }}",
    "none_print": "{{ tools }} {{ none }}",
    "none_in": "{{ 'x' in tools }}",
    "number_add": "{{ 'x' + 1 }}",
    "unknown_filter": "{{ 'a' | nofilter }}",
    "unknown_test": "{{ 'a' is notest }}",
    "unknown_method": "{{ 'a'.nomethod() }}",
    "unknown_tag": "{% frobnicate %}",
    "unclosed": "{% if true %}x",
    "division_by_zero": "{{ 1 // 0 }}",
    "list_append": "{% set l = [] %}{{ l.append(1) }}",
    "do_append": "{% set l = [] %}{% do l.append(1) %}",
    "concatenated_list": "{% set l = [] %}{% for m in messages %}{% set l = l + [m.role] %}{% endfor %}{{ l }}{% set ns = namespace(l=[]) %}{% for m in messages %}{% set ns.l = ns.l + [m.role] %}{% endfor %}{{ ns.l | join(',') }}",
    "generation_prompt": "{% if add_generation_prompt %}<|assistant|>{% endif %}{{ add_generation_prompt }}",
    "date": "{{ strftime_now('%Y') | length }}{% if strftime_now is defined %}y{% endif %}{{ strftime_now('%d %b %Y') == strftime_now('%d ' ~ '%b %Y') }}",
    "date_default": "{% if not date_string is defined %}{% set date_string = '26 Jul 2024' %}{% endif %}{{ date_string }}",
    "system_default": "{% if messages[0]['role'] == 'system' %}{% set loop_messages = messages[1:] %}{% set system_message = messages[0]['content'] %}{% else %}{% set loop_messages = messages %}{% set system_message = 'default' %}{% endif %}{% for m in loop_messages %}{% if loop.index0 == 0 %}{{ '<<' + system_message.strip() + '>>' }}{% endif %}{{ m.role }}{% endfor %}",
    "last_user": "{% set ns = namespace(last=messages | length - 1, multi=true) %}{% for m in messages[::-1] %}{% set index = (messages | length - 1) - loop.index0 %}{% if ns.multi and m.role == 'user' and not (m.content.startswith('<tool>') and m.content.endswith('</tool>')) %}{% set ns.multi = false %}{% set ns.last = index %}{% endif %}{% endfor %}{{ ns.last }}",
    "thinking": "{% for m in messages %}{% if m.role == 'assistant' %}{% set content = m.content %}{% set reasoning = '' %}{% if m.reasoning_content is defined and m.reasoning_content is not none %}{% set reasoning = m.reasoning_content %}{% elif '</think>' in m.content %}{% set content = m.content.split('</think>')[-1].lstrip('\\n') %}{% set reasoning = m.content.split('</think>')[0].rstrip('\\n').split('<think>')[-1].lstrip('\\n') %}{% endif %}[{{ reasoning }}]({{ content }}){% endif %}{% endfor %}{% if enable_thinking is defined and enable_thinking is false %}off{% endif %}",
    "content_parts": "{% for m in messages %}{% if m['content'] is string %}{{ m['content'] | trim }}{% elif m['content'] is iterable %}{% for item in m['content'] %}{% if item['type'] == 'text' %}{{ item['text'] }}{% endif %}{% endfor %}{% endif %}{% endfor %}",
    "tools_guard": "{% if tools is iterable and tools | length > 0 %}t{% else %}no{% endif %}{% if tools is not none and tools is defined %}t{% endif %}{% if tools %}t{% endif %}{% if not tools is defined %}u{% endif %}",
    "tool_messages": "{% for m in messages %}{% if m.tool_calls is defined and m.tool_calls %}c{% elif 'tool_calls' in m %}i{% elif m.get('tool_calls') %}g{% elif m.tool_calls is none %}n{% else %}.{% endif %}{% endfor %}",
    "macro_kwargs": "{% macro f() %}{{ kwargs }}{{ varargs }}{% endmacro %}{{ f(1, a=2) }}",
    "macro_keyword": "{% macro f(a, b=2) %}{{ a }}{{ b }}{% endmacro %}{{ f(b=1, a=3) }}{{ f() }}",
    "block": "{% block body %}b{% endblock %}",
    "include": "{% include 'other' %}",
    "import": "{% import 'json' as json %}",
    "autoescape": "{% autoescape true %}{{ '<' }}{% endautoescape %}",
    "private": "{{ ''.__class__ }}",
    "private_call": "{{ ''.__class__.__mro__() }}",
}


def main():
    cases = [{"name": text, "template": f"[{{{{ {text} }}}}]"} for text in EXPRESSIONS]
    cases += [{"name": name, "template": template} for name, template in TEMPLATES.items()]
    for case in cases:
        try:
            template = _compile_jinja_template(case["template"])
            case["expected"] = template.render(
                messages=MESSAGES, tools=None, documents=None, add_generation_prompt=True, **SPECIALS
            )
        except Exception as error:
            case["error"] = f"{type(error).__name__}: {error}"
    written = {"messages": MESSAGES, "specials": SPECIALS, "cases": cases}
    path = HERE / "templates" / "templates.json"
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(written, indent=1, ensure_ascii=True) + "\n")
    print(len(cases), "cases,", sum("error" in c for c in cases), "refused,", path.stat().st_size, "bytes")


if __name__ == "__main__":
    main()
