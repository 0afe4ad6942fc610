// Some rows of the Mandelbrot set, drawn with characters.
// Arguments: the first row, how many rows, and the width and height of the whole picture.
const [first, rows, width, height] = process.argv.slice(2).map(Number);
const shades = " .,:;-=+*x%#@";
const steps = 400;

for (let row = first; row < first + rows; row++) {
  let line = "";
  for (let column = 0; column < width; column++) {
    const re = -2.1 + (column / (width - 1)) * 2.8;
    const im = -1.15 + (row / (height - 1)) * 2.3;
    let [x, y, step] = [0, 0, 0];
    while (x * x + y * y <= 4 && step < steps) {
      [x, y] = [x * x - y * y + re, 2 * x * y + im];
      step++;
    }
    const shade = step === steps ? shades.length - 1 : Math.floor(Math.sqrt(step) * 1.6);
    line += shades[Math.min(shade, shades.length - 1)];
  }
  console.log(line);
}
