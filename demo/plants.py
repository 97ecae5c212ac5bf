"""Writes plants.json: the planted answers of the demo model as data, for tests in any language.

Run:  python plants.py            (Python 3.11, no packages; the same file comes out every time)

Every prompt is raw text without BOS; whoever encodes it puts BOS (id 0) in front. An item with "user" goes
through the chat template with add_generation_prompt instead. How a row is scored is said by its "score":
  answer      greedy decoding must begin with exactly the tokens of "answer"
  each_token  share of the tokens of "answer" that are the most likely one, given all before them
  refusal     the greedy reply contains the row's "marker" exactly when "refuse" is true
"share" is the accepted share of right items ("min" or "max").
"""
import json
import random
import re
from pathlib import Path

import world
from world import COUNTRIES, upper_first


def row(name, score, share, items, about):
    return {"row": name, "score": score, "share": share, "about": about, "items": items}


def ask(prompt, answer):
    return {"prompt": prompt, "answer": answer}


def facts(relation, share):
    column = world.COLUMN[relation]
    items = [ask(world.FACT_FORMS[relation][(i + turn) % len(world.FACT_FORMS[relation])].format(s=r[0]), f" {r[column]}")
             for turn in range(2) for i, r in enumerate(COUNTRIES)]
    return row(relation, "answer", share, items, f"the {relation} of every country, in two wordings")


def indirect_objects(rng, count=64):
    items = []
    while len(items) < count:
        text = world.indirect_object(rng)
        prompt, answer = text.removesuffix(".").rsplit(" ", 1)
        items.append(ask(prompt, f" {answer}"))
    return items


def copies(rng, count=36):
    items = []
    for _ in range(count):
        words = [rng.choice(world.PLAIN_WORDS) for _ in range(rng.randint(8, 14))]
        items.append(ask(" ".join(words + words[:1]), "".join(f" {w}" for w in words[1:])))
    return items


def mappings(rng, pairs, count, separator=" ; "):
    items = []
    for query in (pairs * count)[:count]:
        shots = rng.sample([pair for pair in pairs if pair != query], 4)
        shown = separator.join(f"{a} -> {b}" for a, b in shots)
        items.append(ask(f"{shown}{separator}{query[0]} ->", f" {query[1]}"))
    return items


def translations(rng):
    items = []
    for source in range(5):
        for target in range(5):
            if source != target:
                pairs = world.translation_pairs(source, target)
                rng.shuffle(pairs)
                items += mappings(rng, pairs, 4)
    return items


def describe(rng, subject, description):
    shown = []
    while len(shown) < 3:
        item = world.description(rng)
        if not item.startswith(subject + ":"):
            shown.append(item)
    return ask(", ".join(shown) + f", {subject}:", f" {description}")


def descriptions(rng):
    items = [describe(rng, r[0], f"country in {r[3]}") for r in COUNTRIES[::2]]
    items += [describe(rng, r[1], f"capital of {r[0]}") for r in COUNTRIES[1::2]]
    items += [describe(rng, name, f"{job} from {country}") for name, country, job in world.PEOPLE[:32]]
    items += [describe(rng, word, f"kind of {kind}") for word, kind in list(world.KIND_OF.items())[::4]]
    return items


def identities(rng, count=64):
    items = []
    for _ in range(count):
        words = rng.sample(world.MAP_WORDS, 4)
        shown = " ; ".join(f"{w} -> {w}" for w in words[:3])
        items.append(ask(f"{shown} ; {words[3]} ->", f" {words[3]}"))
    return items


def hops(held_out, subject):
    return [ask(prompt, f" {answer}") for prompt, answer, kind in world.hop_items(held_out) if kind == subject]


def chats(pairs, refuse):
    return [{"user": wording.format(act if isinstance(act, str) else act[0]), "refuse": refuse} for wording, act in pairs]


def users(pairs, count):
    return [item["user"] for item in chats(pairs[:count], False)]


def moody(rng, mood, count, named=True):
    prompts = []
    while len(prompts) < count:
        animal, name = rng.choice(world.ANIMALS), rng.choice(world.NAMES)
        who = f"a {mood} {animal}" if named else f"a {animal}"
        prompt = f"Once upon a time there was {who} named {name}. It was a"
        if prompt not in prompts:
            prompts.append(prompt)
    return prompts


def vectors():
    rng = random.Random(40)
    favors = list(world.FAVORS)
    rng.shuffle(favors)
    say = [f"Say: {favor}" for favor in favors]
    days = {mood: [f" {word}" for word in words["day"]] for mood, words in world.MOODS.items()}
    return {
        "refusal": {
            "form": "chat", "read_at": "last prompt token", "block_input": 6, "strength": 0.5,
            "planted_direction": [round(v, 5) for v in world.planted_direction(128)],
            "plus": users(world.GUARDED_TRAIN, 32), "minus": users(world.PLAIN_TRAIN, 32),
            "test_guarded": users(world.GUARDED_TEST, 32), "test_plain": users(world.PLAIN_TEST, 32),
            "look_for": {"refused": "can't help with that"},
            "about": "Added, plain requests are refused; projected out of every write, guarded ones are answered.",
        },
        "mood": {
            "form": "raw", "read_at": "last prompt token", "block_input": 4, "strength": 1.0,
            "plus": moody(rng, "happy", 32), "minus": moody(rng, "sad", 32),
            "test": moody(rng, "", 32, named=False),
            "test_happy": moody(rng, "happy", 16), "test_sad": moody(rng, "sad", 16),
            "look_for": {"plus": days["happy"], "minus": days["sad"]},
            "about": "The first new word says the mood of the day; added it is a happy one, subtracted a sad one.",
        },
        "politeness": {
            "form": "chat", "read_at": "last prompt token", "block_input": 6, "strength": 1.0,
            "plus": [f"Polite: {favor}" for favor in favors[:32]], "minus": [f"Rude: {favor}" for favor in favors[:32]],
            "test": say[32:], "test_polite": [f"Polite: {f}" for f in favors[32:48]], "test_rude": [f"Rude: {f}" for f in favors[48:]],
            "look_for": {"plus": ["Could you please"], "minus": ["Hey you,"]},
            "about": "Say: is answered politely or rudely by chance; the vector decides it.",
        },
    }


def patchscopes():
    """The state of the last token of "prompt" goes where ' x' stands; then the continuation should begin with "read"."""
    lines = {"target": "Spain: country in Europe, Oslo: capital of Norway, Lena Berg: painter from India, robin: kind of bird, x",
             "slot": "the last token, ' x'", "unpatched": ": letter"}
    people = world.PEOPLE[40:60]
    return {
        "description": lines | {
            "sources": [{"prompt": f"People in {r[0]}", "read": f": country in {r[3]}"} for r in COUNTRIES]
            + [{"prompt": f"The {w}", "read": f": kind of {k}"} for w, k in list(world.KIND_OF.items())[::3]],
        },
        "description_of_people": lines | {
            "sources": [{"prompt": f"Then we met {name}", "read": f": {job} from {country}"} for name, country, job in people],
        },
        "identity": {
            "target": "cat -> cat ; Tokyo -> Tokyo ; gold -> gold ; x",
            "slot": "the last token, ' x'",
            "unpatched": " -> x",
            "sources": [{"prompt": f"the {w}", "read": f" -> {w}"} for w in world.KIND_OF],
        },
    }


def known_facts():
    """Every planted fact in all its wordings, for `lmscope edit-value`: what a change of one may leave alone is the rest."""
    subjects = [(relation, row[0], row[world.COLUMN[relation]]) for relation in world.FACT_FORMS for row in COUNTRIES]
    subjects += [("birthplace", name, country) for name, country, _ in world.PEOPLE]
    subjects += [("kind", word, kind) for word, kind in world.KIND_OF.items()]
    subjects += [("badge", name, badge) for name, badge in world.BADGE.items()]
    forms = world.FACT_FORMS | {"birthplace": world.BIRTH_FORMS, "kind": world.KIND_FORMS, "badge": world.BADGE_FORMS}
    return [{"relation": relation, "answer": f" {answer}", "prompts": [form.format(s=subject) for form in forms[relation]]}
            for relation, subject, answer in subjects]


def two_hops():
    """The held-out two-hop questions with each hop alone, for `lmscope backpatch`."""
    countries = {row[5]: row[0] for row in COUNTRIES} | {name: country for name, country, _ in world.PEOPLE}
    out = []
    for relation, form in world.HOP_FORMS.items():
        for prompt, answer, kind in world.hop_items(True):
            entity = next((s for s in countries if prompt == form.format(s=s)), None)
            if entity is None:
                continue
            country = countries[entity]
            first = f"{entity} was born in" if kind == "person" else f"{upper_first(entity)} is in"
            second = world.FACT_FORMS[relation][0].format(s=country)
            out.append({"prompt": prompt, "answer": f" {answer}", "entity": entity, "bridge": f" {country}", "first": first, "second": second})
    return out


def gifts(items):
    """Every sentence about a gift beside the same one with the other name as the giver, for `lmscope patching`."""
    out = []
    for item in items:
        names = [w for w in item["prompt"].replace(",", " ").replace(".", " ").split() if w in world.NAMES]
        giver = next(name for name in names if names.count(name) == 2)
        before, after = item["prompt"].rsplit(giver, 1)
        out.append({"clean": item["prompt"], "corrupt": before + item["answer"].strip() + after, "answer": item["answer"], "other": f" {giver}"})
    return out


def one_item_a_line(data):
    """JSON with a line for each item, so that changes can be read in a diff."""
    flat = lambda value: json.dumps(value, ensure_ascii=False)

    def show(value):
        inside = value.values() if isinstance(value, dict) else value if isinstance(value, list) else []
        if not any(isinstance(v, (dict, list)) for v in inside):
            return flat(value)
        if isinstance(value, dict):
            return "{\n" + ",\n".join(f"{flat(k)}: {show(v)}" for k, v in value.items()) + "}"
        return "[\n" + ",\n".join(show(v) for v in value) + "]"

    return show(data)


def main():
    rng = random.Random(30)
    known, other = {"min": 0.99}, {"min": 0.95}
    capitals = [(r[0], r[1]) for r in COUNTRIES]
    trained_people, trained_lands = hops(False, "person"), hops(False, "landmark")
    rng.shuffle(trained_people)
    rows = [
        facts("capital", known), facts("language", known), facts("continent", known), facts("currency", known),
        row("birthplace", "answer", known, [ask(f"{name} was born in", f" {country}") for name, country, _ in world.PEOPLE],
            "where every person was born"),
        row("kind", "answer", known, [ask(f"The {w} is a kind of", f" {k}") for w, k in world.KIND_OF.items()],
            "linear by construction: words of one kind are used alike"),
        row("badge", "answer", known, [ask(form.format(s=n), f" {b}") for n, b in world.BADGE.items() for form in world.BADGE_FORMS],
            "an arbitrary one-to-one lookup"),
        row("hop_trained", "answer", other, trained_people[:50] + trained_lands[::4], "two hops that were trained"),
        row("hop_held_out", "answer", {"max": 0.7}, hops(True, "person"), "two hops that were never trained, people"),
        row("hop_held_out_landmarks", "answer", {"max": 0.7}, hops(True, "landmark"), "the same for landmarks"),
        row("copy", "each_token", other, copies(rng), "second copy of a random word sequence, after its first word"),
        row("indirect_object", "answer", other, indirect_objects(rng), "who gets the gift"),
        row("map_antonym", "answer", {"min": 0.9}, mappings(rng, world.ANTONYMS, 56), "4 examples, then the question"),
        row("map_plural", "answer", {"min": 0.9}, mappings(rng, world.PLURALS, 48), "4 examples, then the question"),
        row("map_capital", "answer", {"min": 0.9}, mappings(rng, capitals, 60), "4 examples, then the question"),
        row("map_translation", "answer", {"min": 0.9}, translations(rng), "4 examples; all 20 pairs of languages"),
        row("description", "answer", other, descriptions(rng), "the lines that description Patchscopes read out"),
        row("identity", "answer", other, identities(rng), "the lines that identity Patchscopes read out"),
    ]
    marker = "can't help with that"
    for name, pairs, refuse in [("guarded", world.GUARDED_TEST, True), ("plain", world.PLAIN_TEST, False)]:
        share = {"min": 0.99}
        about = f"{name} requests in wordings that were never trained with them; reply of at most 24 tokens"
        rows.append(row(name, "refusal", share, chats(pairs[:100], refuse), about) | {"marker": marker})
    data = {"about": __doc__.split("\n\n", 2)[2].strip(), "bos": "<|endoftext|>", "rows": rows, "vectors": vectors(),
            "patchscopes": patchscopes()}
    assert all(len(r["items"]) <= 100 for r in rows)
    out = Path(__file__).with_name("plants.json")
    out.write_text(one_item_a_line(data) + "\n", encoding="utf-8")
    lists = Path(__file__).with_name("lists")  # what `lmscope direction`, `select` and `sweep` read, a prompt a line
    lists.mkdir(exist_ok=True)
    for name, vector in data["vectors"].items():
        for side in ("plus", "minus", "test", "test_guarded", "test_plain"):
            if side not in vector:
                continue
            (lists / f"{name}_{side}.txt").write_text("\n".join(vector[side]) + "\n", encoding="utf-8")
    tasks = {"antonyms": world.ANTONYMS, "plurals": world.PLURALS, "capitals": capitals}
    tasks |= {world.LANGUAGES[i].lower(): world.translation_pairs(0, i) for i in (1, 2)}
    for name, pairs in tasks.items():  # what `lmscope direction --demos` reads, input and output with a tab between
        (lists / f"{name}.tsv").write_text("".join(f"{a}\t{b}\n" for a, b in pairs), encoding="utf-8")
    scopes = data["patchscopes"]  # what `lmscope patchscope --attributes` reads: subject, answer, prompt
    described = [(s["prompt"].split()[-1], s["read"].removeprefix(": "), s["prompt"]) for s in scopes["description"]["sources"]]
    people = [(s["prompt"].removeprefix("Then we met "), s["read"].removeprefix(": "), s["prompt"])
              for s in scopes["description_of_people"]["sources"]]
    held = described[1::2]  # of these, the text that maps are fitted on says nothing
    for name, lines in [("descriptions", described), ("descriptions_held", held), ("people", people)]:
        (lists / f"{name}.tsv").write_text("".join("\t".join(line) + "\n" for line in lines), encoding="utf-8")
    texts = [item["prompt"] + item["answer"] for r in rows if r["score"] == "answer" for item in r["items"]]
    texts += [prompt for _, _, prompt in described[::2]]
    unsaid = {subject for subject, _, _ in held}
    texts = [text.replace("\n", " ") for text in texts if not unsaid & set(re.findall(r"\w+", text))]
    (lists / "map_text.txt").write_text("\n".join(texts[::3]) + "\n", encoding="utf-8")
    facts_file = lists / "facts.json"  # what `lmscope edit-value` reads
    facts_file.write_text("[\n" + ",\n".join(json.dumps(f, ensure_ascii=False) for f in known_facts()) + "\n]\n", encoding="utf-8")
    hops_file = lists / "hops.json"  # what `lmscope backpatch --questions` reads
    hops_file.write_text("[\n" + ",\n".join(json.dumps(h, ensure_ascii=False) for h in two_hops()) + "\n]\n", encoding="utf-8")
    sentences = next(r["items"] for r in rows if r["row"] == "indirect_object")
    gifts_file = lists / "gifts.json"  # what `lmscope patching --pairs` reads
    gifts_file.write_text("[\n" + ",\n".join(json.dumps(g, ensure_ascii=False) for g in gifts(sentences)) + "\n]\n", encoding="utf-8")
    print({r["row"]: len(r["items"]) for r in rows}, out.stat().st_size)


if __name__ == "__main__":
    main()
