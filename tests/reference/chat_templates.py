"""What jinja2 in transformers' sandbox makes of many templates: values/chat-templates.json."""

import datetime
import json

import jinja2
import transformers
from common import VALUES, write
from transformers.utils import chat_template_utils

MESSAGES = [
    {"role": "system", "content": "Be brief.\n"},
    {"role": "user", "content": "  hello <a> & 'b' \"c\" 😀 naïve "},
    {"role": "assistant", "content": "<think>\nhm</think>\n\nfine"},
    {"role": "user", "content": "日本 ÀÉ ß end", "name": "Ann", "n": 3},
]
TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "get_weather",
            "description": "Weather <now> of a \"city\".",
            "parameters": {
                "type": "object",
                "properties": {
                    "city": {"type": "string", "description": "é"},
                    "days": {"type": "integer", "default": 1, "minimum": 0.5},
                },
                "required": ["city"],
            },
        },
    }
]
CALLS = [
    {"role": "user", "content": "Weather?"},
    {
        "role": "assistant",
        "content": "",
        "tool_calls": [{"type": "function", "function": {"name": "get_weather", "arguments": {"city": "Köln", "days": 2}}}],
    },
    {"role": "tool", "name": "get_weather", "content": "{\"t\": 3}"},
    {"role": "assistant", "content": "3 degrees."},
]
SPECIAL = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>", "additional_special_tokens": ["<x>", "<y>"]}
DATA = {
    "l": [3, 1, 2],
    "w": ["b", "A", "c", "a", "b"],
    "d": {"b": 1, "a": 2, "C": 3},
    "s": "a-b,c d",
    "f": 2.5,
    "z": 0,
    "nested": [{"k": {"v": 1}, "g": "x"}, {"k": {"v": 3}, "g": "y"}, {"k": {"v": 2}, "g": "x"}],
    "lines": "one\n two\r\n\nthree\n",
    "mixed": [1, 2.5, True, None, "x'y", [1, "a"], {"k": (1,) and [2]}],
}

# Expressions, printed one by one.
EXPRESSIONS = """
1 + 2 * 3 - 4 // 3 % 2 ** 2 ** 1
7 / 2, 6 / 2, -7 // 2, -7 % 3, 7 % -3, 2 ** -1, 2 ** 10, 7.0 // 2, 1e3, 1e16, 1e15, 1e-5, 0.0001, 1.5e300 * 1e10, 100000000000000000.0
-2 ** 2, -f|abs, +3, - z
1_000 + 1, 0x1f, 0b11, 0o17
'a' 'b' ~ 1 ~ none ~ true ~ 2.0 ~ missing ~ [1, 'x'] ~ {'k': none}
'tab\\tnew\\nq\\'q\\x41\\u00e9\\U0001F600\\q'
"x" * 3, [1, 2] * 2, (1,) * 2, 'ab' + 'c', [1] + [2], (1,) + (2,)
l, l | sort, l | sort(reverse=true), w | sort, w | sort(case_sensitive=true), w | unique | list, w | unique(case_sensitive=true) | list
d, d.keys() | list, d.values() | list, d.items() | list, d | dictsort, d | dictsort(true), d | dictsort(false, 'value'), d | dictsort(reverse=true)
d.b, d['b'], d.get('b'), d.get('q'), d.get('q', 7), d.q, d.q is defined, 'b' in d, 'q' not in d
d | length, l | count, s | length, messages[1].content | length
l[0], l[-1], l[5] is defined, l[1:], l[:-1], l[::-1], l[::2], s[0], s[-1], s[2:5], s[::-1], s[-3:-1], l[-1:0:-1], s[10:], s[:100]
messages[1].content[-9:], messages[3].content[:3], messages[1].content[::-1]
s.upper(), s.title(), s.capitalize(), s.split('-'), s.split(), s.split(',', 1), s.rsplit('-', 1), s.split('b')[-1], ' a  b '.split(), 'a,b,c'.rsplit(',', 1), ' a b c '.split(none, 1)
s.replace('a', 'xx'), s.replace('', '.'), 'aaa'.replace('a', 'b', 2), s | replace('-', '+'), s.find('b'), s.find('q'), s.rfind('b'), s.index('b'), s.count('b'), ''.count('')
'  x '.strip() ~ '|' ~ '  x '.lstrip() ~ '|' ~ '  x '.rstrip() ~ '|' ~ 'xxaxx'.strip('x') ~ '|' ~ 'abcba'.lstrip('ab') ~ '|' ~ ' \u00a0\u3000x\u2003' | trim
s.startswith('a'), s.startswith(('q', 'a')), s.endswith('d'), s.endswith('x'), 'abc'.startswith('b', 1), 'abc'.removeprefix('a'), 'abc'.removesuffix('c'), 'abc'.removesuffix('')
'a=b=c'.partition('='), 'a=b=c'.rpartition('='), 'abc'.partition('q'), 'abc'.rpartition('q')
'x'.center(5) ~ '|' ~ 'xy'.center(5, '*') ~ '|' ~ 'x'.ljust(3, '.') ~ '|' ~ 'x'.rjust(3) ~ '|' ~ '7'.zfill(3) ~ '|' ~ '-7'.zfill(4) ~ '|' ~ 'x' | center(6)
'a1'.isalnum(), 'ab'.isalpha(), '12'.isdigit(), ' '.isspace(), 'ab'.islower(), 'AB'.isupper(), 'Ab C'.istitle(), ''.isalpha(), '½'.isnumeric(), 'é'.isascii()
lines.splitlines(), lines.splitlines(true), lines | indent(2), lines | indent(3, true), lines | indent(2, blank=true), 'a\\nb' | indent('> ')
','.join(w), w | join, w | join('+'), nested | map(attribute='g') | join, nested | join('/', attribute='g')
nested | map(attribute='k.v') | list, nested | selectattr('g', 'equalto', 'x') | map(attribute='k') | list, nested | rejectattr('g', '==', 'x') | list | length, nested | sort(attribute='k.v') | map(attribute='k.v') | list, nested | sort(attribute='g,k.v') | map(attribute='k.v') | list
nested | map(attribute='q', default='none') | list, nested | selectattr('q', 'defined') | list, nested | selectattr('g') | list | length
nested | groupby('g') | map('first') | list, nested | groupby('g') | map('last') | map('length') | list
l | select('odd') | list, l | reject('gt', 2) | list, l | select | list, w | select('in', ['a', 'b']) | list, w | map('upper') | list, w | map('replace', 'a', 'z') | list
l | sum, nested | sum(attribute='k.v'), l | sum(start=10), [1.5, 2] | sum, l | max, l | min, w | max, w | min(case_sensitive=true), [] | max is defined
l | first, l | last, [] | first is defined, l | reverse | list, s | reverse, l | batch(2) | list, l | batch(2, 'x') | list, [1, 2, 3, 4, 5] | slice(2) | list, [1, 2, 3, 4, 5] | slice(3, 'f') | list
f | round, 2.675 | round(2), 2.5 | round, 3.5 | round, 42.55 | round(1, 'floor'), 42.51 | round(1, 'ceil'), 1234.5 | round(-2), 5 | round, f | int, '12' | int, '1x' | int, '1x' | int(7), '0x1f' | int(base=16), '3.7' | int, '1e2' | float, 'x' | float, 'x' | float(1.5), -3.7 | int
s | string, 12 | string | length, none | string, true | string, mixed, mixed | string | length, mixed | list, (1,), (), (1, 2), [], {}, {'a': (1, 'x')}
mixed | tojson, mixed | tojson(indent=2), d | tojson(sort_keys=true), d | tojson(indent=1, separators=(',', ':')), d | tojson(separators=(',', ':')), messages[1] | tojson, messages[1] | tojson(ensure_ascii=true), {} | tojson(indent=4), [] | tojson(indent=4), [[], [1]] | tojson(indent=2), 1.0 | tojson, 'a\\x00\\x7f\\u2028/' | tojson
{1: 2, true: 3, none: 4, 2.5: 5} | tojson, (1, 2) | tojson, tools | tojson, tools | tojson(indent=4)
'<b>x</b>' | striptags, 'a b' | urlencode, {'a b': 'c&d', 'e': 1} | urlencode, 'é/ü' | urlencode, 'a b c' | wordcount
'one two three four' | truncate(9), 'one two three four' | truncate(9, true), 'one two three four' | truncate(9, false, '..'), 'one two' | truncate(6), 'one two three four' | truncate(9, true, '', 0)
'hello wORLD-foo (bar)' | title, 'hELLO' | capitalize, 'ÀÉ' | lower, 'ß' | upper, 'x' | default('y'), q | default('y'), '' | default('y'), '' | default('y', true), none | default('y'), q | d, z | default(5, boolean=true)
'%s is %d, %5.2f|%-5s|%05d|%x|%r|%%|%+d' | format('x', 3, 2.345, 'ab', 42, 255, 'q', 5), '%s' % 'x', '%s-%s' % ('a', 1), '%(a)s' % {'a': 2}, '%s' | format(a=1) if false else 'no', '%.3s' % 'abcdef', '%e' % 12345.678, '%g' % 0.00001, '%g' % 123456789.0
'{} {} {0}'.replace('{0}', '').format('a', 2), '{0}-{1}-{0}'.format('x', 'y'), '{a:>5}|{b:<4}|{c:^5}|{d:05.1f}|{e:,}|{f!r}'.format(a='x', b='y', c='z', d=3.14159, e=1234567, f='q'), '{{}}'.format(), '{:x}'.format(255), '{:+d}'.format(3), '{:.2%}'.format(0.1234), '{:.3}'.format('abcdef'), '{:*^7}'.format('ab')
1 == 1.0, 1 == true, 'a' == 'a', [1, 2] == [1, 2], {'a': 1} == {'a': 1.0}, (1,) == [1], none == false, missing == missing, 'a' < 'b', [1, 2] < [1, 3], 1 < 2 < 3, 1 < 3 < 2, 1 != 2, not 1 == 1, 'B' < 'a', '\uffff' < '😀'
1 in l, 4 in l, 'a' in s, 'q' not in s, '' in s, 2.0 in l, 1 in (1, 2), 'b' in d.keys(), none in mixed, missing in l
true and 1, 0 or 'x', none or 0, '' and 1, not missing, not [], 1 if z else 2, 'x' if missing, (1 if z) is defined
none, true, false, True, False, None, missing, d.q, l is defined, missing is undefined, none is none, z is none
1 is number, 1.0 is number, true is number, '1' is number, 1 is integer, true is integer, 1.0 is float, 1 is float, true is boolean, 1 is boolean, true is true, 1 is true, false is false
'a' is string, l is string, l is sequence, d is sequence, 'a' is sequence, 1 is sequence, d is mapping, l is mapping, l is iterable, 'a' is iterable, d is iterable, 1 is iterable, missing is iterable, missing is sequence
3 is odd, 3 is even, 6 is divisibleby 3, 6 is divisibleby(4), 1 is eq 1, 1 is ne 2, 2 is gt 1, 2 is ge 2, 1 is lt 2, 1 is le 0, 1 is sameas 1, none is sameas none, 'a' is in 'abc', 1 is in [2], 'a' is lower, 'a' is upper, 'trim' is filter, 'nope' is filter, 'odd' is test, range is callable, s.upper is callable, 1 is not odd, 1 is not none
range(3) | list, range(1, 7, 2) | list, range(3, 0, -1) | list, range(0) | list, range(5)[1:3] | list, range(3) | length
dict(a=1, b=2), dict([('x', 1)]), dict(d, a=5), namespace(a=1).a, namespace({'k': 2}).k
messages | map(attribute='role') | list, messages | selectattr('role', 'in', ['user', 'tool']) | list | length, messages[0]['role'], messages[-1].name, messages[0].name is defined, messages[0]['content'] | trim, messages | last | attr('role')
messages | selectattr('role', 'equalto', 'user') | map(attribute='content') | first, (messages | selectattr('role', 'equalto', 'nobody') | list) | length, true if messages | selectattr('role', 'equalto', 'nobody') else false
bos_token, eos_token, pad_token, unk_token, unk_token is defined, additional_special_tokens, tools is none, documents is none, tools is defined, add_generation_prompt, cls_token is defined
messages[2].content.split('</think>')[-1].lstrip('\\n'), messages[2]['content'].split('</think>')[0].rstrip('\\n').split('<think>')[-1].lstrip('\\n'), '</think>' in messages[2].content
[1, [2, [3, {'a': [4]}]]], 'it\\'s', ["it's", 'say "x"', 'both \\' "', 'new\\nline', '\\x07\\x85\\xad', '\\u200b', 'é', '\\\\']
1234567890123, 12345678 * 10, 9007199254740991, 0.1 + 0.2, 1 / 3, 100.0, 1e22, 1.0e-7, 123456.789e3
'abc' | list, d | list, (1, 2) | list, 'ab' | map('upper') | list, d.items() | map('first') | list, 'a' | first, s | last, d | first
'x' | filesizeformat if false else 1, 1 | filesizeformat, 999 | filesizeformat, 1000 | filesizeformat, 123456789 | filesizeformat, 123456789 | filesizeformat(true)
"a" if true else "b" | upper, ("a" if false else "b") | upper, 'a' ~ 'b' | upper, -1 | abs, 1 + -1 | abs, not true | string, 'x' is string and true, 1 + 2 is odd
s.x is defined, s['x'] is defined, l.x is defined, (1).x is defined, d.items is defined, d['items'] is defined, d.keys is callable, l.append is defined
{'a': 1, 'a': 2}, {1: 'x', 1.0: 'y', true: 'z'}, {'k': {}}['k'], {'x': l[0]}.x, [l, d][0][1], (l)[0], ('a', 'b')[1], 'abc'[1], "abc".upper()[0], l.0, nested.0.g
strftime_now('%Y-%m-%d') | length, strftime_now('%d %b %Y') == strftime_now('%d %b %Y'), '%d' in strftime_now('%%d')
'a'.isidentifier(), '1a'.isidentifier(), 'Ab'.swapcase(), 'Straße'.casefold(), 'a\\tb'.expandtabs(4)
joiner is callable, cycler('a', 'b').next(), cycler('a', 'b').current
l | pprint, (l | map('string') | list), l | map('int') | sum, w | groupby(attribute=0) | length if false else 'skip'
"\\q" ~ 'x', '\\101'
messages | tojson | length, 'x'.join(['a']), [] | join(','), l | join(', ') , [none, true] | join
"%c%c" % ('a', 98), '%o' % 8, '%i' % 3.7, '%5s|' % none, '%s' % [1, 2], '%s %s' % (1, none)
"""

TEMPLATES = [
    # White space control.
    "a\n  {% if true %}\n  b\n  {% endif %}\nc\n\n",
    "  {% if true %}x{% endif %}  \ny",
    "a {%- if true %} b {%- endif %} c",
    "a {% if true -%}  \n b {% endif -%}\n\n c",
    "a\n  {%+ if true %}\nb\n  {%- endif +%}\nc",
    "a\n  {{ 1 }}\n  {{- 2 -}}\n  b  {{ 3 -}}  \nc",
    "a\n  {# note #}\nb {#- note -#} c\n{# x\ny #}\nd{#+ k +#}\ne",
    "{% raw %}{{ x }} {% if %}{% endraw %}\nz {%- raw -%}  {{ y }}  {%- endraw -%}  w",
    "a\r\nb\rc{% if true %}\r\nd{% endif %}\r\n",
    "\n\n{% set x = 1 %}\n\n{{ x }}\n\n",
    "x{% if true %}\n\ny{% endif %}\n\nz\t{% if true %}w{% endif %}",
    "{%if true%}a{%endif%}{{1}}{{'}}'}}{{ {'a':{'b':1}} }}{#{{#}",
    "\t{%- for i in [1,2] %}\n\t{{ i }}\n\t{%- endfor %}\nend",
    "a\n  {%- generation %}\n  b\n  {% endgeneration -%}\n c",
    # Loops.
    "{% for m in messages %}{{ loop.index }}/{{ loop.length }} {{ loop.first }} {{ loop.last }} {{ loop.revindex0 }} {{ loop.depth }} {{ loop.cycle('a', 'b') }} {{ loop.changed(m.role) }} {{ loop.previtem.role if not loop.first }}>{{ loop.nextitem.role if not loop.last }};{% endfor %}",
    "{% for m in messages if m.role == 'user' %}{{ loop.index }}{{ loop.length }}{{ loop.last }}{% else %}none{% endfor %}|{% for x in [] %}x{% else %}none{% endfor %}",
    "{% for x in l %}{% if x == 1 %}{% continue %}{% endif %}{{ x }}{% for y in l %}{% if y == 1 %}{% break %}{% endif %}{{ y }}{% endfor %}{% endfor %}",
    "{% for k, v in d.items() %}{{ k }}={{ v }};{% endfor %}{% for k in d %}{{ k }}{% endfor %}{% for a, (b, c) in [(1, (2, 3))] %}{{ a }}{{ b }}{{ c }}{% endfor %}",
    "{% for i in [1, [2, [3]]] recursive %}{{ i if i is number else '(' ~ loop(i) ~ ')' ~ loop.depth }}{% endfor %}",
    "{% set x = 0 %}{% for i in l %}{% set x = x + i %}{{ x }} {% endfor %}{{ x }}",
    "{% set ns = namespace(x=0, seen=[]) %}{% for i in l %}{% set ns.x = ns.x + i %}{% set ns.seen = ns.seen + [i] %}{% endfor %}{{ ns.x }} {{ ns.seen }} {{ ns.q is defined }}",
    "{% for i in l %}{% if loop.first %}{% set y = i %}{% endif %}{{ y }}|{% endfor %}{{ y is defined }}",
    "{% for c in 'añ😀' %}{{ c }}.{% endfor %}{% for x in missing %}x{% else %}e{% endfor %}{% for i in range(2) %}{{ loop.index0 }}{% endfor %}",
    "{% for x in l | map('string') %}{{ x }}{{ loop.length }}{% endfor %}{% set g = l | map('string') %}{{ g | list }}{{ g | list }}",
    "{% for i in [1, 2] %}{% for j in [3, 4] %}{{ loop.index }}{{ i }}{{ j }} {% endfor %}{{ loop.index }}{% endfor %}",
    # Scopes.
    "{% if true %}{% set a = 1 %}{% endif %}{{ a }}{% with b = 2, c = a %}{{ b }}{{ c }}{% set a = 5 %}{{ a }}{% endwith %}{{ a }}{{ b is defined }}",
    "{% set x %}  in {{ s }} {% set y = 1 %} {% endset %}[{{ x }}]{{ y is defined }}{% set u | upper | trim %} ab {% endset %}[{{ u }}]",
    "{% set a, b = 1, 2 %}{% set (c, e) = (3, 4) %}{{ a }}{{ b }}{{ c }}{{ e }}{% set t = 1, 2 %}{{ t }}{% set one = 1, %}{{ one }}",
    "{% generation %}{% set q = 1 %}{{ q }}{% endgeneration %}{{ q is defined }}{% block x %}{{ bos_token }}{% endblock %}{% block y required %}k{% endblock y %}" .replace(" required", ""),
    "{% filter upper | replace('B', 'x') %}ab{{ s }}{% endfilter %}{% filter trim %}  a {% endfilter %}",
    # Macros.
    "{% macro f(a, b=2, c=a) %}{{ a }}{{ b }}{{ c }}{% endmacro %}{{ f(1) }} {{ f(1, 3) }} {{ f(b=1, a=0) }} {{ f('x', c='y') }} {{ f() }}",
    "{% macro f() %}{{ varargs }}{{ kwargs }}{{ caller is defined }}{% endmacro %}{{ f(1, 2, k=3) }}{% macro g() %}{{ caller is defined }}{% endmacro %}{{ g() }}{{ g is callable }}",
    "{% macro outer() %}<{{ caller('x', 2) }}>{% endmacro %}{% call(a, b) outer() %}{{ a }}{{ b }}{{ s }}{% endcall %}",
    "{% macro f(n) %}{% if n > 0 %}{{ n }}{{ f(n - 1) }}{% endif %}{% endmacro %}{{ f(5) }}{% set v = f(2) %}{{ v | length }}{{ v.strip() }}",
    "{% set x = 1 %}{% macro f() %}{{ x }}{% set x = 3 %}{{ x }}{% endmacro %}{{ f() }}{{ x }}{% set x = 2 %}{{ f() }}",
    "{% macro m(msg) %}{% for p in msg %}{{ p }}{{ loop.index }}{% endfor %}{% endmacro %}{% for w2 in w %}{{ m(w2) }}{% endfor %}",
    "{% macro f(*) %}{% endmacro %}",
    "{% macro f(a) %}{{ a }}{% endmacro %}{{ f(1, 2) }}",
    "{% macro f(a) %}{{ a }}{% endmacro %}{{ f(b=2) }}",
    "{{ f(*[1, 2], **{'c': 3}) if f is defined else 'no f' }}{{ dict(**{'a': 1}) }}{{ range(*[1, 3]) | list }}",
    "{{ 1 if 1 if 0 else 1 else 2 }}",
    "{{ 1 is == 1 }}",
    "{{ 'a\\\nb' }}{{ s | e }}{{ messages[1].content | e }}{{ s | safe }}{{ 'x<' | forceescape }}",
    "{{ '{0[k]}{1[0]}'.format({'k': 1}, [7]) }}",
    # Errors.
    "{{ raise_exception('stop here') }}",
    "{{ missing.x }}",
    "{{ missing + 1 }}",
    "{{ 1 + 'a' }}",
    "{{ 'a' + 1 }}",
    "{{ d.q.r }}",
    "{{ l.append(1) }}",
    "{{ d.update({}) }}",
    "{{ s.__class__ }}{{ s.__class__.__mro__ }}",
    "{{ ''.__class__.__base__.__subclasses__() }}",
    "{{ 1 / 0 }}",
    "{{ [1] < ['a'] }}",
    "{{ 1 in 5 }}",
    "{{ x | nofilter }}",
    "{{ x is notest }}",
    "{% if x %}",
    "{% endif %}",
    "{{ x",
    "{% for x in %}{% endfor %}",
    "{% unknown %}",
    "{{ 'a' 1 }}",
    "{{ }}",
    "{{ [1, }}",
    "{% set 1 = 2 %}",
    "{% include 'x' %}",
    "{% for i in range(100001) %}{% endfor %}",
    "{{ none.x }}|{{ none.x is defined }}",
    "{{ none + 'a' }}",
    "{{ messages | map('nofilter') | list }}",
    "{{ 'a' | int + 'b' | length }}",
    "{{ l | map('string') | length }}",
    "{{ (l | map('string'))[0] }}",
    "{{ l() }}",
    "{{ missing() }}",
    "{{ {[1]: 2} }}",
    "{{ l | join(1) }}{{ 1 | join }}",
    "{{ missing | tojson }}",
    "{{ l | map('string') | tojson }}",
    "{% set a, b = [1] %}",
    "{{ '%d' % 'x' }}",
    "{{ '%s %s' % 'x' }}",
    "{{ 'x'.index('q') }}",
    "{{ messages[0].content.foo() }}",
    "{{ 'a'.nope }}|{{ 'a'.nope is defined }}",
    "{{ 1 is odd is even }}",
    "{{ none | length }}",
    "{{ none | first }}",
    "{% for x in none %}{% endfor %}",
    "{{ none | trim }}{{ 5 | upper }}{{ none | string }}{{ true | lower }}",
    # The shapes of the field's own templates.
    "{% if messages[0]['role'] == 'system' %}{% set loop_messages = messages[1:] %}{% set system_message = messages[0]['content'] %}{% else %}{% set loop_messages = messages %}{% set system_message = false %}{% endif %}{% for message in loop_messages %}{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('roles must alternate') }}{% endif %}{% if loop.index0 == 0 and system_message != false %}{% set content = '<<SYS>>\\n' + system_message + '\\n<</SYS>>\\n\\n' + message['content'] %}{% else %}{% set content = message['content'] %}{% endif %}{% if message['role'] == 'user' %}{{ bos_token + '[INST] ' + content.strip() + ' [/INST]' }}{% elif message['role'] == 'assistant' %}{{ ' ' + content.strip() + ' ' + eos_token }}{% endif %}{% endfor %}",
    "{% for message in messages %}{% set content = '<|start_header_id|>' + message['role'] + '<|end_header_id|>\n\n'+ message['content'] | trim + '<|eot_id|>' %}{% if loop.index0 == 0 %}{% set content = bos_token + content %}{% endif %}{{ content }}{% endfor %}{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}",
    "{% for message in messages %}\n{% if message['role'] == 'user' %}\n{{ '<|user|>\n' + message['content'] + eos_token }}\n{% elif message['role'] == 'system' %}\n{{ '<|system|>\n' + message['content'] + eos_token }}\n{% elif message['role'] == 'assistant' %}\n{{ '<|assistant|>\n' + message['content'] + eos_token }}\n{% endif %}\n{% if loop.last and add_generation_prompt %}\n{{ '<|assistant|>' }}\n{% endif %}\n{% endfor %}",
    "{{ bos_token }}{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system role here') }}{% endif %}{% for message in messages %}{% if (message['role'] == 'assistant') %}{% set role = 'model' %}{% else %}{% set role = message['role'] %}{% endif %}{{ '<start_of_turn>' + role + '\n' + message['content'] | trim + '<end_of_turn>\n' }}{% endfor %}{% if add_generation_prompt %}{{'<start_of_turn>model\n'}}{% endif %}",
    "{%- if tools %}\n    {{- '<|im_start|>system\\n' }}\n    {%- if messages[0].role == 'system' %}\n        {{- messages[0].content + '\\n\\n' }}\n    {%- endif %}\n    {{- \"# Tools\\n<tools>\" }}\n    {%- for tool in tools %}\n        {{- \"\\n\" }}\n        {{- tool | tojson }}\n    {%- endfor %}\n    {{- \"\\n</tools><|im_end|>\\n\" }}\n{%- else %}\n    {%- if messages[0].role == 'system' %}\n        {{- '<|im_start|>system\\n' + messages[0].content + '<|im_end|>\\n' }}\n    {%- endif %}\n{%- endif %}\n{%- set ns = namespace(multi_step_tool=true, last_query_index=messages|length - 1) %}\n{%- for message in messages[::-1] %}\n    {%- set index = (messages|length - 1) - loop.index0 %}\n    {%- if ns.multi_step_tool and message.role == \"user\" and not(message.content.startswith('<tool_response>') and message.content.endswith('</tool_response>')) %}\n        {%- set ns.multi_step_tool = false %}\n        {%- set ns.last_query_index = index %}\n    {%- endif %}\n{%- endfor %}\n{%- for message in messages %}\n    {%- if (message.role == \"user\") or (message.role == \"system\" and not loop.first) %}\n        {{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>' + '\\n' }}\n    {%- elif message.role == \"assistant\" %}\n        {{- '<|im_start|>' + message.role + '\\n' + message.content.split('</think>')[-1].lstrip('\\n') }}\n        {%- for tool_call in message.tool_calls or [] %}\n            {%- if tool_call.function is defined %}\n                {%- set tool_call = tool_call.function %}\n            {%- endif %}\n            {{- '\\n<tool_call>\\n{\"name\": \"' + tool_call.name + '\", \"arguments\": ' + (tool_call.arguments if tool_call.arguments is string else tool_call.arguments | tojson) + '}\\n</tool_call>' }}\n        {%- endfor %}\n        {{- '<|im_end|>\\n' }}\n    {%- elif message.role == \"tool\" %}\n        {%- if loop.first or (messages[loop.index0 - 1].role != \"tool\") %}\n            {{- '<|im_start|>user' }}\n        {%- endif %}\n        {{- '\\n<tool_response>\\n' + message.content + '\\n</tool_response>' }}\n        {%- if loop.last or (messages[loop.index0 + 1].role != \"tool\") %}\n            {{- '<|im_end|>\\n' }}\n        {%- endif %}\n    {%- endif %}\n{%- endfor %}\n{%- if add_generation_prompt %}\n    {{- '<|im_start|>assistant\\n' }}\n{%- endif %}\n{{ ns.last_query_index }}",
    "{%- macro kind(spec) -%}\n{%- if spec.type == 'array' -%}{{ kind(spec['items']) }}[]{%- elif spec.type == 'object' -%}\n{ {%- for key, value in spec.properties.items() %}{{ key }}{{ '?' if key not in (spec.required or []) }}: {{ kind(value) }}{{ ' = ' ~ value.default if value.default is defined }}{{ ', ' if not loop.last }}{%- endfor %} }\n{%- else -%}{{ spec.type }}{%- endif -%}\n{%- endmacro -%}\n{% if tools is not none %}{% for tool in tools %}// {{ tool.function.description }}\ntype {{ tool.function.name }} = {{ kind(tool.function.parameters) }};\n{% endfor %}{% endif %}",
    "{%- set today = strftime_now('%Y') -%}{%- if today | int > 2000 -%}ok{%- endif -%}{%- for message in messages -%}{%- if message['content'] is string -%}{{ message['content'] }}{%- else -%}{%- for part in message['content'] -%}{%- if part['type'] == 'text' -%}{{ part['text'] }}{%- endif -%}{%- endfor -%}{%- endif -%}{%- generation -%}{{ eos_token }}{%- endgeneration -%}{%- endfor -%}",
]

lines = EXPRESSIONS.strip().split("\n")


def context(kind: str) -> dict:
    messages = CALLS if kind == "calls" else [m for m in MESSAGES if kind != "turns" or m["role"] != "system"]
    return {
        "messages": messages,
        "tools": TOOLS if kind in ("tools", "calls") else None,
        "documents": None,
        "add_generation_prompt": True,
        **DATA,
    }


def render(template: str, kind: str) -> dict:
    try:
        compiled = chat_template_utils._compile_jinja_template(template)
        return {"text": compiled.render(**SPECIAL, **context(kind))}
    except jinja2.TemplateSyntaxError:
        return {"error": "syntax"}
    except jinja2.exceptions.SecurityError:
        return {"error": "operation"}
    except jinja2.exceptions.UndefinedError as error:
        return {"error": "operation", "message": str(error)}
    except jinja2.exceptions.TemplateError as error:
        return {"error": "raised", "message": str(error)} if "raise_exception" in template else {"error": "operation"}
    except OverflowError:
        return {"error": "limit"}
    except Exception:
        return {"error": "operation"}


cases = []
for line in lines:
    cases.append(("{{ " + line + " }}", "tools"))
    cases.append(("{{ (" + line + ") | string | length }}", "plain"))
for template in TEMPLATES:
    for kind in ("plain", "turns", "tools", "calls") if len(template) > 300 else ("plain",):
        cases.append((template, kind))
values = [{"template": template, "context": kind, **render(template, kind)} for template, kind in cases]
for value in values:
    if "0x7f" in value.get("text", "") or " object at " in value.get("text", ""):
        raise ValueError(f"not the same twice: {value['template']}")
bad = [value for value in values if "error" in value and value["template"].startswith("{{ ") and "," in value["template"]]
for value in bad:
    print(value["error"], value["template"][:150])
write(
    VALUES / "chat-templates.json",
    json.dumps(
        {
            "madeWith": {"jinja2": jinja2.__version__, "transformers": transformers.__version__},
            "special": SPECIAL,
            "contexts": {kind: context(kind) for kind in ("plain", "turns", "tools", "calls")},
            "cases": values,
        },
        ensure_ascii=False,
        indent=1,
    ).encode(),
)
