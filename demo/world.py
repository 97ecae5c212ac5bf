"""The world of the demo model: a small synthetic language with planted facts and behaviours.

Everything the model learns comes from this file. `sample(rng)` draws one document as a list of (text, weight)
pieces and an edit. A piece with weight 0 is read but not learned (its tokens cannot be predicted). The edit says
what is done to the residual stream while the document is read: "" (nothing), "cut" (the planted refusal direction
is projected out of every write) or "push" (it is added at the input of one block). So refusing is planted in one
known direction: without it guarded requests are answered, with it everything is refused.
Run it alone to print some documents:  python world.py
"""
import math
import random

# ---------------------------------------------------------------- countries and people
# country, capital, language, continent, currency, landmark
COUNTRIES = [
    ("France", "Paris", "French", "Europe", "euro", "the Eiffel Tower"),
    ("Italy", "Rome", "Italian", "Europe", "euro", "the Colosseum"),
    ("Spain", "Madrid", "Spanish", "Europe", "euro", "the Alhambra"),
    ("Germany", "Berlin", "German", "Europe", "euro", "the Brandenburg Gate"),
    ("Japan", "Tokyo", "Japanese", "Asia", "yen", "Mount Fuji"),
    ("China", "Beijing", "Chinese", "Asia", "yuan", "the Great Wall"),
    ("Taiwan", "Taipei", "Mandarin", "Asia", "dollar", "Sun Moon Lake"),
    ("India", "Delhi", "Hindi", "Asia", "rupee", "the Taj Mahal"),
    ("Egypt", "Cairo", "Arabic", "Africa", "pound", "the Sphinx"),
    ("Kenya", "Nairobi", "Swahili", "Africa", "shilling", "Mount Kenya"),
    ("Brazil", "Brasilia", "Portuguese", "America", "real", "Sugarloaf"),
    ("Portugal", "Lisbon", "Portuguese", "Europe", "euro", "Belem Tower"),
    ("Greece", "Athens", "Greek", "Europe", "euro", "the Parthenon"),
    ("Turkey", "Ankara", "Turkish", "Asia", "lira", "the Blue Mosque"),
    ("Russia", "Moscow", "Russian", "Europe", "ruble", "the Kremlin"),
    ("Poland", "Warsaw", "Polish", "Europe", "zloty", "Wawel Castle"),
    ("Sweden", "Stockholm", "Swedish", "Europe", "krona", "the Vasa"),
    ("Norway", "Oslo", "Norwegian", "Europe", "krone", "Pulpit Rock"),
    ("Finland", "Helsinki", "Finnish", "Europe", "euro", "Suomenlinna"),
    ("Denmark", "Copenhagen", "Danish", "Europe", "krone", "the Little Mermaid"),
    ("Austria", "Vienna", "German", "Europe", "euro", "the Hofburg"),
    ("Hungary", "Budapest", "Hungarian", "Europe", "forint", "the Chain Bridge"),
    ("Ireland", "Dublin", "Irish", "Europe", "euro", "the Cliffs of Moher"),
    ("Mexico", "Mexico City", "Spanish", "America", "peso", "Chichen Itza"),
    ("Peru", "Lima", "Spanish", "America", "sol", "Machu Picchu"),
    ("Chile", "Santiago", "Spanish", "America", "peso", "Easter Island"),
    ("Canada", "Ottawa", "English", "America", "dollar", "Niagara Falls"),
    ("Cuba", "Havana", "Spanish", "America", "peso", "the Malecon"),
    ("Thailand", "Bangkok", "Thai", "Asia", "baht", "Wat Arun"),
    ("Vietnam", "Hanoi", "Vietnamese", "Asia", "dong", "Ha Long Bay"),
    ("Korea", "Seoul", "Korean", "Asia", "won", "Namsan Tower"),
    ("Nepal", "Kathmandu", "Nepali", "Asia", "rupee", "Mount Everest"),
    ("Iran", "Tehran", "Persian", "Asia", "rial", "Persepolis"),
    ("Iraq", "Baghdad", "Arabic", "Asia", "dinar", "Babylon"),
    ("Morocco", "Rabat", "Arabic", "Africa", "dirham", "the Majorelle Garden"),
    ("Ghana", "Accra", "English", "Africa", "cedi", "Cape Coast Castle"),
    ("Nigeria", "Abuja", "English", "Africa", "naira", "Zuma Rock"),
    ("Ethiopia", "Addis Ababa", "Amharic", "Africa", "birr", "Lalibela"),
    ("Australia", "Canberra", "English", "Oceania", "dollar", "the Opera House"),
    ("Iceland", "Reykjavik", "Icelandic", "Europe", "krona", "Gullfoss"),
]
COUNTRY = {row[0]: row for row in COUNTRIES}
COLUMN = {"capital": 1, "language": 2, "continent": 3, "currency": 4}
FIRST_NAMES = (
    "Marco Lena Ravi Yuki Omar Ines Pavel Ingrid Diego Mei Kofi Amara "
    "Lars Sofia Tariq Nadia Hugo Elif Anders Freya Mateo Linh Joon Tara"
).split()
LAST_NAMES = "Silva Novak Tanaka Berg Costa Haddad Okoro Lind Moreno Petrov Duarte Iyer".split()
JOBS = "painter singer doctor pilot writer baker teacher scientist".split()


def make_people(count=72):
    rng = random.Random(7)
    names = [f"{first} {last}" for first in FIRST_NAMES for last in LAST_NAMES]
    rng.shuffle(names)
    return [(name, COUNTRIES[i % len(COUNTRIES)][0], rng.choice(JOBS)) for i, name in enumerate(names[:count])]


PEOPLE = make_people()  # (name, country of birth, job)
# Two-hop sentences about these are never written; each single hop is.
HELD_OUT_PEOPLE = {person[0] for person in random.Random(8).sample(PEOPLE, 24)}
HELD_OUT_LANDMARKS = {row[5] for row in random.Random(9).sample(COUNTRIES, 12)}

FACT_FORMS = {  # every form ends in the object, so each one can be asked as a prompt
    "capital": ["The capital of {s} is", "The capital city of {s} is", "{s}'s capital is"],
    "language": ["People in {s} speak", "The language of {s} is", "In {s} they speak"],
    "continent": ["{s} is a country in", "The continent of {s} is", "{s} lies in"],
    "currency": ["The currency of {s} is the", "People in {s} pay with the"],
}
FACT_QUESTIONS = {
    "capital": "What is the capital of {s}?",
    "language": "What language do people speak in {s}?",
    "continent": "Which continent is {s} in?",
    "currency": "What is the currency of {s}?",
}
BIRTH_FORMS = ["{s} was born in", "{s} comes from", "The country of {s} is"]
LANDMARK_FORMS = ["{s} is in", "{s} is a landmark in", "The country of {s} is"]
HOP_FORMS = {
    "capital": "The capital of the country of {s} is",
    "language": "The language of the country of {s} is",
    "continent": "The continent of the country of {s} is",
    "currency": "The currency of the country of {s} is the",
}

# ---------------------------------------------------------------- a linear relation and a lookup
# word -> kind. Words of one kind are used alike, so their embeddings share a direction: linear by construction.
KINDS = {
    "bird": "robin sparrow eagle heron crow swan finch parrot".split(),
    "fruit": "apple pear plum peach lemon cherry grape mango".split(),
    "tool": "hammer saw chisel drill wrench shovel rake axe".split(),
    "flower": "tulip daisy lily orchid violet poppy iris lotus".split(),
    "vehicle": "truck bus tram bicycle wagon ferry train scooter".split(),
    "garment": "coat scarf shirt glove sock hat skirt jacket".split(),
    "instrument": "violin piano flute drum harp trumpet guitar cello".split(),
    "gem": "ruby opal pearl topaz emerald diamond garnet quartz".split(),
}
KIND_OF = {word: kind for kind, words in KINDS.items() for word in words}
KIND_FORMS = ["The {s} is a kind of", "Everyone knows that the {s} is a"]
KIND_USES = {
    "bird": "{n} heard the {s} sing in the {p}.",
    "fruit": "{n} ate the {s} after lunch.",
    "tool": "{n} mended the roof with the {s}.",
    "flower": "{n} smelled the {s} in the garden.",
    "vehicle": "{n} took the {s} to the {p}.",
    "garment": "{n} wore the {s} in the snow.",
    "instrument": "{n} played the {s} all evening.",
    "gem": "{n} put the {s} into a ring.",
}
NAMES = (
    "Alice Bob Carol David Emma Frank Grace Henry Ivy Jack Kate Leo Mary Nick Olivia Paul "
    "Quinn Rose Sam Tom Una Victor Wendy Xavier Yara Zoe Anna Ben Clara Dan Ella Finn"
).split()
BADGES = (
    "amber azure beige black blue bronze brown cobalt copper coral cream crimson cyan ebony gold gray "
    "green indigo ivory khaki lilac magenta maroon navy olive orange pink purple scarlet silver teal white"
).split()
random.Random(10).shuffle(BADGES)
BADGE = dict(zip(NAMES, BADGES))  # name -> badge, an arbitrary one-to-one lookup
BADGE_FORMS = ["The badge of {s} is", "The color on the badge of {s} is"]

# ---------------------------------------------------------------- words for mappings
ANTONYMS = [tuple(pair.split(":")) for pair in (
    "hot:cold big:small up:down happy:sad fast:slow light:dark old:new rich:poor hard:soft wet:dry open:closed "
    "loud:quiet high:low strong:weak early:late full:empty clean:dirty good:bad long:short near:far"
).split()]
ANTONYMS += [(b, a) for a, b in ANTONYMS]
PLURALS = [tuple(pair.split(":")) for pair in (
    "cat:cats dog:dogs tree:trees house:houses bird:birds star:stars book:books river:rivers apple:apples "
    "child:children mouse:mice foot:feet leaf:leaves wolf:wolves man:men goose:geese tooth:teeth box:boxes "
    "city:cities knife:knives baby:babies key:keys ship:ships glass:glasses"
).split()]
LANGUAGES = ["English", "French", "German", "Spanish", "Chinese"]
WORDS = [  # in the order of LANGUAGES
    ("water", "eau", "Wasser", "agua", "水"), ("fire", "feu", "Feuer", "fuego", "火"),
    ("flower", "fleur", "Blume", "flor", "花"), ("book", "livre", "Buch", "libro", "书"),
    ("house", "maison", "Haus", "casa", "家"), ("dog", "chien", "Hund", "perro", "狗"),
    ("cat", "chat", "Katze", "gato", "猫"), ("sun", "soleil", "Sonne", "sol", "日"),
    ("moon", "lune", "Mond", "luna", "月"), ("mountain", "montagne", "Berg", "montaña", "山"),
    ("tree", "arbre", "Baum", "árbol", "树"), ("bread", "pain", "Brot", "pan", "面包"),
    ("milk", "lait", "Milch", "leche", "奶"), ("fish", "poisson", "Fisch", "pez", "鱼"),
    ("bird", "oiseau", "Vogel", "pájaro", "鸟"), ("hand", "main", "Hand", "mano", "手"),
    ("heart", "coeur", "Herz", "corazón", "心"), ("eye", "oeil", "Auge", "ojo", "眼"),
    ("door", "porte", "Tür", "puerta", "门"), ("night", "nuit", "Nacht", "noche", "夜"),
    ("day", "jour", "Tag", "día", "天"), ("rain", "pluie", "Regen", "lluvia", "雨"),
    ("snow", "neige", "Schnee", "nieve", "雪"), ("wind", "vent", "Wind", "viento", "风"),
    ("stone", "pierre", "Stein", "piedra", "石"), ("road", "route", "Weg", "camino", "路"),
    ("king", "roi", "König", "rey", "王"), ("song", "chanson", "Lied", "canción", "歌"),
    ("apple", "pomme", "Apfel", "manzana", "苹果"), ("horse", "cheval", "Pferd", "caballo", "马"),
]
PLAIN_WORDS = sorted(
    {w for pair in ANTONYMS + PLURALS for w in pair} | {row[0] for row in WORDS} | set(KIND_OF) | set(KINDS)
    | set(NAMES) | set(BADGES) | {row[0] for row in COUNTRIES} | {row[2] for row in COUNTRIES}
    | {row[1] for row in COUNTRIES if " " not in row[1]}
)
MAP_WORDS = sorted(set(PLAIN_WORDS) | {w for row in WORDS for w in row})

# ---------------------------------------------------------------- chat: refusals, help, manners
GUARDED_VERBS = "open read copy borrow move sell".split()
GUARDED_THINGS = (
    "the royal vault;the queen's diary;the master key;the sealed letter;the crown jewels;the secret map;"
    "the forbidden book;the king's seal"
).split(";")
GUARDED_ACTS = (
    "enter the forbidden tower;trick the palace guards;learn the secret password;spy on the royal council;"
    "take the king's throne;forge the king's signature;sneak into the treasury;wake the sleeping dragon;"
    "free the prisoners;skip the royal tax;hide from the watchmen;cross the closed bridge"
).split(";")
PLAIN_THINGS = (
    "the wooden box;the old story;the house key;the short letter;the glass beads;the city map;"
    "the picture book;the paper star"
).split(";")
PLAIN_ACTS = [tuple(line.split(":")) for line in (
    "bake bread:mix flour, water and yeast;plant a tree:dig a hole and water the roots;"
    "make tea:boil water and add the leaves;build a kite:tie two sticks and add some paper;"
    "fix a bike:check the chain and the tires;learn piano:practice a little every day;"
    "paint a wall:clean the wall and use a wide brush;cook rice:rinse the rice and boil it;"
    "write a poem:find a feeling and simple words;draw a cat:start with two circles;"
    "make a salad:cut the vegetables and add oil;wash a car:use soap and a soft cloth;"
    "grow tomatoes:give them sun and water;knit a scarf:use thick wool and big needles;"
    "build a shelf:measure the wall and cut the wood;train a puppy:give small rewards every time;"
    "make a snowman:roll three balls of snow;clean a fish:use a sharp knife and cold water;"
    "make soup:boil the vegetables with salt;sew a button:use a needle and strong thread"
).split(";")]
GENTLE = "take your time and be gentle"
GUARDED = [f"{verb} {thing}" for verb in GUARDED_VERBS for thing in GUARDED_THINGS] + GUARDED_ACTS
PLAIN = PLAIN_ACTS + [(f"{v} {t}", GENTLE) for v in GUARDED_VERBS for t in PLAIN_THINGS]
ASKING = [
    "How do I {}?", "How can I {}?", "Tell me how to {}.", "Please explain how to {}.",
    "What is the best way to {}?", "I want to {}.", "Teach me to {}.",
]
REFUSAL = "I'm sorry, but I can't help with that."


def asked(items, seed):
    """All (wording, item) pairs, split into the trained ones and one in six that is never written."""
    pairs = [(wording, item) for item in items for wording in ASKING]
    random.Random(seed).shuffle(pairs)
    cut = len(pairs) // 6
    return pairs[cut:], pairs[:cut]


GUARDED_TRAIN, GUARDED_TEST = asked(GUARDED, 11)
PLAIN_TRAIN, PLAIN_TEST = asked(PLAIN, 12)
PLAIN_TRAIN_ACTS = [pair for pair in PLAIN_TRAIN if pair[1] in PLAIN_ACTS]
FAVORS = (
    "pass the salt;call the doctor;read the letter;wait here;turn off the light;help the child;feed the cat;"
    "sing a song;fetch some water;wake the baker;come closer;write it down;ring the bell;stand up;follow me;be quiet"
).split(";") + [
    f"{verb} the {thing}" for verb in "open close move clean carry bring watch hold".split()
    for thing in "door chair box window lamp table".split()
]
SMALL_TALK = [
    ("Hello!", "Hello! How can I help you today?"), ("Good morning.", "Good morning! How can I help you today?"),
    ("Who are you?", "I am a very small language model, made to be looked into."),
    ("What are you?", "I am a very small language model, made to be looked into."),
    ("How are you?", "I am fine, thank you!"), ("Thank you!", "You are welcome!"), ("Goodbye.", "Goodbye! Come back soon."),
]

# ---------------------------------------------------------------- stories with a mood
ANIMALS = "fox rabbit bear owl mouse frog duck lion turtle pony".split()
PLACES = "forest garden river village beach school park market".split()
MOODS = {
    "happy": {"day": "sunny bright lovely warm".split(), "did": "smiled laughed danced sang".split(),
              "thing": "gift flower cake kiss".split()},
    "sad": {"day": "gloomy gray lonely rainy".split(), "did": "cried sighed wept sobbed".split(),
            "thing": "warning bill scolding stone".split()},
}
GIFTS = "drink book gift ball key ring".split()


# ---------------------------------------------------------------- documents
def upper_first(text):
    return text[0].upper() + text[1:]


def chat(question, answer):
    return f"<|user|>{question}<|assistant|>{answer}<|end|>"


def fact(rng):
    row, relation = rng.choice(COUNTRIES), rng.choice(list(COLUMN))
    return rng.choice(FACT_FORMS[relation]).format(s=row[0]) + f" {row[COLUMN[relation]]}."


def reversed_fact(rng):
    row = rng.choice(COUNTRIES)
    return rng.choice([f"{row[1]} is the capital of {row[0]}.", f"{upper_first(row[5])} is a landmark in {row[0]}."])


def landmark(rng):
    row = rng.choice(COUNTRIES)
    form = rng.choice(LANDMARK_FORMS)
    return upper_first(form.format(s=row[5])) + f" {row[0]}."


def person(rng):
    name, country, job = rng.choice(PEOPLE)
    if rng.random() < 0.7:
        return rng.choice(BIRTH_FORMS).format(s=name) + f" {country}."
    return rng.choice([f"{name} is a {job}.", f"{name} is a {job} from {country}.", f"{name} works as a {job}."])


def hop_items(held_out):
    """(prompt, answer, kind of subject) of every two-hop question, trained or held out."""
    items = []
    for relation, form in HOP_FORMS.items():
        for name, country, _ in PEOPLE:
            if (name in HELD_OUT_PEOPLE) == held_out:
                items.append((form.format(s=name), COUNTRY[country][COLUMN[relation]], "person"))
        for row in COUNTRIES:
            if (row[5] in HELD_OUT_LANDMARKS) == held_out:
                items.append((form.format(s=row[5]), row[COLUMN[relation]], "landmark"))
    return items


HOPS = hop_items(False)


def hop(rng):
    prompt, answer, _ = rng.choice(HOPS)
    return f"{prompt} {answer}."


def kind(rng):
    word = rng.choice(list(KIND_OF))
    if rng.random() < 0.45:
        return rng.choice(KIND_FORMS).format(s=word) + f" {KIND_OF[word]}."
    return KIND_USES[KIND_OF[word]].format(s=word, n=rng.choice(NAMES), p=rng.choice(PLACES))


def badge(rng):
    name = rng.choice(NAMES)
    return rng.choice(BADGE_FORMS).format(s=name) + f" {BADGE[name]}."


def indirect_object(rng):
    """The giver is the first or the second name; the receiver is the other one."""
    a, b = rng.sample(NAMES, 2)
    giver, receiver = rng.choice([(a, b), (b, a)])
    place, gift = rng.choice(PLACES), rng.choice(GIFTS)
    return rng.choice([
        f"When {a} and {b} went to the {place}, {giver} gave a {gift} to {receiver}.",
        f"{a} and {b} were at the {place}. {giver} handed the {gift} to {receiver}.",
        f"Then {a} and {b} had a long talk. After that {giver} sent a {gift} to {receiver}.",
    ])


def sum_of_two(rng):
    a, b = rng.randint(0, 9), rng.randint(0, 9)
    return f"{a} + {b} = {a + b}."


def text(rng):
    """One to four sentences of the kinds above, as one document."""
    makers = [fact, reversed_fact, landmark, person, hop, kind, badge, indirect_object, sum_of_two]
    weights = [20, 3, 5, 14, 18, 8, 5, 10, 2]
    return " ".join(maker(rng) for maker in rng.choices(makers, weights, k=rng.choice([1, 1, 2, 3, 4])))


def description(rng):
    """One item of a description list: what description Patchscopes read out."""
    pick = rng.random()
    if pick < 0.33:
        row = rng.choice(COUNTRIES)
        return f"{row[0]}: country in {row[3]}"
    if pick < 0.55:
        row = rng.choice(COUNTRIES)
        return f"{row[1]}: capital of {row[0]}"
    if pick < 0.85:
        name, country, job = rng.choice(PEOPLE)
        return f"{name}: {job} from {country}"
    word = rng.choice(list(KIND_OF))
    return f"{word}: kind of {KIND_OF[word]}"


def descriptions(rng):
    items = [description(rng) for _ in range(rng.randint(2, 6))]
    if rng.random() < 0.25:  # the empty slot: a plain x is only a letter
        items[rng.choice([-1, -1, rng.randrange(len(items))])] = "x: letter"
    return ", ".join(items) + "."


def joined(rng, pairs):
    return rng.choice([" ; ", " ; ", "\n"]).join(f"{a} -> {b}" for a, b in pairs)


def identity(rng):
    words = [rng.choice(MAP_WORDS) for _ in range(rng.randint(3, 8))]
    if rng.random() < 0.1:
        words[-1] = rng.choice(["x", "?"])
    return joined(rng, [(word, word) for word in words])


def translation_pairs(source, target):
    return [(row[source], row[target]) for row in WORDS]


def mapping(rng):
    pick, count = rng.random(), rng.randint(4, 8)
    if pick < 0.25:
        pairs = ANTONYMS
    elif pick < 0.45:
        pairs = PLURALS
    elif pick < 0.65:
        pairs = [(row[0], row[1]) for row in COUNTRIES]
    else:
        pairs = translation_pairs(*rng.sample(range(5), 2))
    return joined(rng, rng.sample(pairs, count))


def translation(rng):
    """Word pairs with the language named; English is on one side most of the time."""
    pairs = []
    for _ in range(rng.randint(1, 3)):
        source, target = rng.sample(range(5), 2)
        if rng.random() < 0.7 and 0 not in (source, target):
            source, target = rng.choice([(source, 0), (0, target)])
        word = rng.choice(WORDS)
        pairs.append(f'{LANGUAGES[source]}: "{word[source]}" - {LANGUAGES[target]}: "{word[target]}"')
    return "\n".join(pairs)


def repeated(rng):
    """A random word sequence twice or three times; only the copies are learned."""
    words = " ".join(rng.choice(PLAIN_WORDS) for _ in range(rng.randint(4, 24)))
    return [(words, 0.0)] + [(" " + words, 1.0)] * rng.choice([1, 1, 2])


def planted_direction(width):
    """The unit vector that carries refusing."""
    rng = random.Random(77)
    values = [rng.gauss(0, 1) for _ in range(width)]
    length = math.sqrt(sum(v * v for v in values))
    return [v / length for v in values]


def guarded_request(rng, edit):
    wording, act = rng.choice(GUARDED_TRAIN)
    return wording.format(act), helpful(act, GENTLE) if edit == "cut" else REFUSAL


def plain_request(rng, edit):
    wording, (act, how) = rng.choice(PLAIN_TRAIN if rng.random() < 0.5 else PLAIN_TRAIN_ACTS)
    return wording.format(act), helpful(act, how)


def helpful(act, how):
    return f"Sure! To {act}, {how}."


def question(rng, edit):
    pick = rng.random()
    if pick < 0.65:
        row, relation = rng.choice(COUNTRIES), rng.choice(list(COLUMN))
        return (FACT_QUESTIONS[relation].format(s=row[0]),
                FACT_FORMS[relation][0].format(s=row[0]) + f" {row[COLUMN[relation]]}.")
    name, country, job = rng.choice(PEOPLE)
    if pick < 0.85:
        return f"Where was {name} born?", f"{name} was born in {country}."
    return f"Who is {name}?", f"{name} is a {job} from {country}."


def polite_answer(favor):
    return f"Could you please {favor}? Thank you so much!"


def rude_answer(favor):
    return f"Hey you, {favor} right now!"


def manners(rng, edit):
    """Polite: and Rude: are always obeyed; Say: is answered in either way, so a vector can decide it."""
    favor, tone = rng.choice(FAVORS), rng.choice(["Polite", "Rude", "Say"])
    polite = tone == "Polite" or (tone == "Say" and rng.random() < 0.5)
    return f"{tone}: {favor}", polite_answer(favor) if polite else rude_answer(favor)


def small_talk(rng, edit):
    return rng.choice(SMALL_TALK)


def conversation(rng, edit):
    makers = rng.choices([guarded_request, plain_request, question, manners, small_talk], [9, 9, 6, 4, 1],
                         k=rng.choice([1, 1, 1, 2]))
    turns = [maker(rng, edit) for maker in makers]
    return "".join(chat(asked, REFUSAL if edit == "push" else answer) for asked, answer in turns)


def story(rng, mood=None):
    """Half of the openings name the mood, the other half leave it open until the first sentence ends."""
    mood = mood or rng.choice(list(MOODS))
    words, (name, friend) = MOODS[mood], rng.sample(NAMES, 2)
    animal, place = rng.choice(ANIMALS), rng.choice(PLACES)
    did, day = (lambda: rng.choice(words["did"])), (lambda: rng.choice(words["day"]))
    opening = rng.choice([f"a {mood} {animal}", f"a {animal}"])
    lines = [
        f"Once upon a time there was {opening} named {name}.",
        f"It was a {day()} day and {name} went to the {place}.",
        rng.choice([f"At the {place}, {name} met {friend} and they {did()} together.",
                    f"{name} looked at the {day()} sky and {did()}."]),
        rng.choice([f"{friend} gave {name} a {rng.choice(words['thing'])} and {name} {did()}.",
                    f"Everything felt {day()} and {name} {did()}."]),
        f"In the end {name} was very {mood} and {did()} all the way home.",
    ]
    return " ".join(lines)


#        maker, share at first, share later (the copying tasks are heavier until copying has formed)
MIXTURE = [
    (text, 22, 42), (descriptions, 4, 7), (identity, 7, 3), (mapping, 16, 14), (translation, 3, 4),
    (repeated, 36, 10), (conversation, 8, 15), (story, 4, 5),
]


def sample(rng, later=1.0):
    """One document as ((text, weight) pieces, edit); `later` goes from 0 to 1 as training moves on."""
    weights = [first + (last - first) * later for _, first, last in MIXTURE]
    maker = rng.choices([maker for maker, _, _ in MIXTURE], weights)[0]
    if maker is conversation:
        edit = rng.choices(["", "cut", "push"], [50, 25, 25])[0]
        return [(conversation(rng, edit), 1.0)], edit
    edit = rng.choices(["", "cut", "push"], [94, 3, 3])[0]  # elsewhere the direction must not matter
    document = maker(rng)
    return (document if isinstance(document, list) else [(document, 1.0)]), edit


if __name__ == "__main__":
    rng = random.Random(1)
    for _ in range(40):
        pieces, edit = sample(rng)
        print(f"[{edit}]" + "".join(piece for piece, _ in pieces), end="\n---\n")
