import { defineConfig, type Plugin } from 'vite'
import { createHash } from 'node:crypto'

// Uppy's styles have pictures in data: URLs, which the gateway's policy does not permit (img-src 'self' blob:): they become
// files.
function pictures(): Plugin {
  return {
    name: 'pictures',
    enforce: 'post',
    generateBundle(_, bundle) {
      for (const file of Object.values(bundle)) {
        if (file.type !== 'asset' || !file.fileName.endsWith('.css')) continue
        file.source = String(file.source).replace(/url\((["']?)data:image\/svg\+xml[^,]*,(.*?)\1\)/g, (_match, _quote, text: string) => {
          const source = decodeURIComponent(text)
          const fileName = `assets/${createHash('sha256').update(source).digest('hex').slice(0, 12)}.svg`
          this.emitFile({ type: 'asset', fileName, source })
          return `url(/${fileName})`
        })
        if (/url\(["']?data:/.test(file.source)) this.error(`${file.fileName} still has a data: URL`)
      }
    },
  }
}

export default defineConfig({
  plugins: [pictures()],
  oxc: { jsx: { runtime: 'automatic', importSource: 'preact' } },
  build: {
    target: 'es2022',
    assetsInlineLimit: 0,
    modulePreload: { polyfill: false },
    license: { fileName: 'licenses.txt' },
    rolldownOptions: { output: { hashCharacters: 'hex' } },
  },
  // For work on the console alone: `npx vite` beside `make run`.
  server: { proxy: Object.fromEntries(['/session', '/upload', '/files', '/accounts'].map((path) => [path, 'http://localhost:8080'])) },
})
