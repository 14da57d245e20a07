"Plausible mistakes in the exercise of chapter 20; each must be rejected."
WRONG = {
    "check_paper_recipe": [
        "def paper_recipe(images, epochs, b, lr, workers=8): return images//b*epochs, lr*b/64",  # not b
        "def paper_recipe(images, epochs, b, lr, workers=8): return images*epochs//(workers*b), lr*workers*b/64",
        "def paper_recipe(images, epochs, b, lr, workers=8): return images//(workers*b)*epochs, lr*b/32",  # from 32
        "def paper_recipe(images, epochs, b, lr, workers=8): return images//(workers*b)*epochs, lr",  # one rate
        "def paper_recipe(images, epochs, b, lr, workers=8): return images//(8*b)*epochs, lr*8*b/64",  # 8
    ],
}
