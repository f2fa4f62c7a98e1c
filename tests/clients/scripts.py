"""What the reciting model answers: the last message of a conversation, and its answer."""

ADD = '<tool_call>\n{"name": "add", "arguments": {"a": 1, "b": 2}}\n</tool_call>'
SCRIPTS = {
    "[plain]": "Just some text.",
    "[thought]": "<think>\nLet me see.\n</think>\n\nIt is four.",
    "[call]": f"I add them: {ADD}",
    "[both]": '<tool_call>\n{"name": "add", "arguments": {"a": 3, "b": 40}}\n</tool_call>\n'
    '<tool_call>\n{"name": "negate", "arguments": {"number": 43}}\n</tool_call>',
    '{"sum": 3}': "The sum is three.",
    "[days]": '{"tasks": [{"sky": "cloudy", "degrees": 3}, {"sky": "cloudy", "degrees": 8}]}',
    "[days called]": '<tool_call>\n{"name": "IterableWeather", "arguments": '
    '{"tasks": [{"sky": "clear", "degrees": 31}, {"sky": "clear", "degrees": 18}]}}\n</tool_call>',
    "not the JSON_SCHEMA": '```json\n{"sky": "clear", "degrees": 21}\n```',  # with this instructor ends a prompt
    "[weather]": '{"sky": "clear", "degrees": 21}',
}
